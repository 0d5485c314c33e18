package storagetest

import (
	"fmt"
	"testing"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Each benchmark counts rows, because all waiters of a batch share its cost.

func BenchmarkSQLite(b *testing.B)   { bench(b, SQLite) }
func BenchmarkPostgres(b *testing.B) { bench(b, Postgres) }

func bench(b *testing.B, create Source) {
	for _, n := range []int{1, 64, 1000} {
		b.Run(fmt.Sprintf("Insert%d", n), func(b *testing.B) {
			db := MustOpen(b, create(b))
			fill(b, db, 100_000) // so that each row changes a page of the index of its own
			next := api.NID(100_001)
			perRow(b, n, func() {
				commitBench(b, db, batchOf(next, n))
				next += api.NID(n)
			})
		})
	}
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("Extend%d", n), func(b *testing.B) {
			db := MustOpen(b, create(b))
			fill(b, db, 100_000)
			deadline := int64(2e12)
			perRow(b, n, func() {
				deadline++
				batch := &storage.Batch{}
				for i := range n {
					batch.Extends = append(batch.Extends, storage.Extend{NID: api.NID(1 + i*7%100_000), Deadline: deadline})
				}
				commitBench(b, db, batch)
			})
		})
	}
	b.Run("ClaimAndEnd100", func(b *testing.B) {
		db := MustOpen(b, create(b))
		next := api.NID(1)
		perRow(b, 100, func() {
			b.StopTimer()
			commitBench(b, db, batchOf(next, 100))
			claims, ends := &storage.Batch{}, &storage.Batch{}
			for range 100 {
				claims.Claims = append(claims.Claims, storage.Claim{NID: next, Event: event(fmt.Sprintf("$%0500d", next))})
				ends.Ends = append(ends.Ends, storage.End{NID: next, State: api.Sent, At: 1})
				next++
			}
			b.StartTimer()
			commitBench(b, db, claims)
			commitBench(b, db, ends)
		})
	})
	b.Run("Scan", func(b *testing.B) {
		db := MustOpen(b, create(b))
		fill(b, db, 1_000_000)
		b.ReportAllocs()
		perRow(b, 1_000_000, func() {
			if _, err := db.Scan(b.Context(), func(*storage.Timer) error { return nil }); err != nil {
				b.Fatal(err)
			}
		})
	})
}

// perRow runs f, which handles n rows, and reports rows per second.
func perRow(b *testing.B, n int, f func()) {
	b.Helper()
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(b.N)*float64(n)/b.Elapsed().Seconds(), "rows/s")
}

func batchOf(first api.NID, n int) *storage.Batch {
	b := &storage.Batch{}
	for i := range n {
		f := sample(first + api.NID(i))
		f.Secret = api.NewSecret()
		b.Inserts = append(b.Inserts, f)
	}
	return b
}

func fill(b *testing.B, db storage.Database, n int) {
	for i := 0; i < n; i += 10_000 {
		commitBench(b, db, batchOf(api.NID(i+1), 10_000))
	}
}

func commitBench(b *testing.B, db storage.Database, batch *storage.Batch) {
	if _, err := db.Commit(b.Context(), batch); err != nil {
		b.Fatal(err)
	}
}
