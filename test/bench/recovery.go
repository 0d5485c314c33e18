package main

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

// recovery kills a server with a million futures and compares the time from its next start to the first answered
// refresh with the time to read the same rows through the same driver. In process it measures the futureserver alone.
func recovery(b *bench, ctx context.Context) (results []Result, err error) {
	for _, k := range kinds() {
		source, n, err := b.pending(ctx, k)
		if err != nil {
			return results, err
		}
		list, err := recoveryOf(b, ctx, k, source, n)
		results = append(results, list...)
		if err != nil {
			return results, err
		}
	}
	return results, nil
}

func recoveryOf(b *bench, ctx context.Context, k kind, source config.DataSource, n int) ([]Result, error) {
	read, alone, whole := math.Inf(1), math.Inf(1), math.Inf(1)
	var life *lives
	if !b.quick { // with fewer futures it would measure the start of Dendrite
		var err error
		if life, err = b.newLives(ctx, source); err != nil {
			return nil, err
		}
	}
	for range size(b, 3, 2) {
		if err := refreshed(source); err != nil {
			return nil, err
		}
		took, err := readTimers(ctx, source, n)
		if err != nil {
			return nil, err
		}
		read = min(read, took)
		if took, err = openAndRefresh(ctx, source); err != nil {
			return nil, err
		}
		alone = min(alone, took)
		if life != nil {
			if took, err = life.toFirstAnswer(ctx, b, secret(n/2).Token(api.RefreshToken)); err != nil {
				return nil, err
			}
			whole = min(whole, took)
		}
	}
	how := func(where string) string { return fmt.Sprintf("%s, %s, %d futures", where, k, n) }
	const bound, goal = 3, 1.5
	results := []Result{ratio("recovery of the futureserver : SELECT of the rows", how("in process"), alone, read, "s", atMost(bound, goal))}
	if life == nil {
		return results, nil
	}
	empty, err := b.emptyStart(ctx, k)
	if err != nil {
		return results, err
	}
	return append(results, ratio("kill -9 to first refresh answered : SELECT of the rows",
		how(fmt.Sprintf("over HTTP, of it %.2g s for a server without futures", empty)), whole, read, "s", atMost(bound, goal))), nil
}

// readTimers reads the rows that recovery reads, and discards them.
func readTimers(ctx context.Context, source config.DataSource, n int) (seconds float64, err error) {
	db, err := openSQL(source)
	if err != nil {
		return 0, err
	}
	defer closing(db)
	start := time.Now()
	rows, err := db.QueryContext(ctx, `
SELECT t.nid, state, policy, secret, COALESCE(r.deadline_ts, t.deadline_ts), timeout_ms, key_hash, user_id, room_id, group_id
FROM futureserver_timers t LEFT JOIN futureserver_raised r ON r.nid = t.nid ORDER BY t.nid`)
	if err != nil {
		return 0, err
	}
	defer closing(rows)
	var nid, state, policy, deadline, timeout, key int64
	var secret, user, room, group sql.RawBytes
	count := 0
	for ; rows.Next(); count++ {
		if err := rows.Scan(&nid, &state, &policy, &secret, &deadline, &timeout, &key, &user, &room, &group); err != nil {
			return 0, err
		}
	}
	if err := rows.Err(); err != nil || count < n {
		return 0, fmt.Errorf("%d of %d rows, %w", count, n, err)
	}
	return time.Since(start).Seconds(), nil
}

// openAndRefresh starts the futureserver in this process and refreshes one future.
func openAndRefresh(ctx context.Context, source config.DataSource) (seconds float64, err error) {
	start := time.Now()
	c, err := openCore(ctx, source, easyRoom{}, nil)
	if err != nil {
		return 0, err
	}
	defer c.stop()
	err = c.PerformTokenAction(ctx, secret(0).Token(api.RefreshToken))
	return time.Since(start).Seconds(), err
}

// lives are the runs of one server.
type lives struct {
	plan plan
	path string // of its configuration
}

// newLives starts a server for the first time, which takes longer, and kills it.
func (b *bench) newLives(ctx context.Context, source config.DataSource) (*lives, error) {
	l := &lives{plan: plan{database: source}}
	var err error
	if l.path, err = b.config(l.plan); err != nil {
		return nil, err
	}
	s, err := b.launch(ctx, l.plan, l.path)
	if err != nil {
		return nil, err
	}
	defer s.kill()
	return l, s.waitUp(ctx)
}

// toFirstAnswer starts a killed server, returns how long it takes to answer a refresh, and kills it again.
func (l *lives) toFirstAnswer(ctx context.Context, b *bench, token api.Token) (seconds float64, err error) {
	start := time.Now()
	s, err := b.launch(ctx, l.plan, l.path)
	if err != nil {
		return 0, err
	}
	defer s.kill()
	err = s.poll(ctx, func(client *http.Client) (*http.Response, error) {
		return client.Post(s.url+rig.Path("futures", token.String()), "", strings.NewReader(""))
	})
	return time.Since(start).Seconds(), err
}

// emptyStart returns how long the second start of a server without futures takes.
func (b *bench) emptyStart(ctx context.Context, k kind) (seconds float64, err error) {
	source, err := b.database(k)
	if err != nil {
		return 0, err
	}
	l, err := b.newLives(ctx, source)
	if err != nil {
		return 0, err
	}
	if err := (crowd{n: 1, perUser: 1, perRoom: 1, timeout: time.Hour}).seed(ctx, source); err != nil {
		return 0, err
	}
	return l.toFirstAnswer(ctx, b, secret(0).Token(api.RefreshToken))
}
