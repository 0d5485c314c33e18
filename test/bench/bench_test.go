package main

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		bound        Bound
		value, sigma float64
		want         Verdict
	}{
		{atMost(1.6, 1.25), 1.25, 0, reached},
		{atMost(1.6, 1.25), 1.6, 0, between},
		{atMost(1.6, 1.25), 1.61, 0, missed},
		{atLeast(10, 50), 50, 0, reached},
		{atLeast(10, 50), 10, 0, between},
		{atLeast(10, 50), 9.9, 0, missed},
		{atLeast(10, 50), math.NaN(), 0, missed},
		{atLeast(0.92, 0.99), 0.98, 0.004, between},
		{atLeast(0.92, 0.99), 0.985, 0.004, even},
		{atLeast(0.92, 0.99), 0.995, 0.004, even},
		{atLeast(0.92, 0.99), 1, 0.004, reached},
		{atLeast(0.92, 0.99), 0.91, 0.1, missed},
		{Bound{}, 1e9, 1e9, shown},
	} {
		if got := c.bound.judge(c.value, c.sigma); got != c.want {
			t.Errorf("%v ± %v of %+v is %q, want %q", c.value, c.sigma, c.bound, got, c.want)
		}
	}
}

// A run fails if and only if a row is below its floor, and names the row.
func TestReportFails(t *testing.T) {
	r := newReport(true)
	r.add("fast", []Result{ratio("", "", 2, 1, "s", atMost(3, 1))})
	if err := r.err(); err != nil {
		t.Error(err)
	}
	r.add("slow", []Result{ratio("", "", 4, 1, "s", atMost(3, 1))})
	if err := r.err(); err == nil || !strings.Contains(err.Error(), "slow") || strings.Contains(err.Error(), "fast") {
		t.Error(err)
	}
}

// The load generator sends as many requests as it is told to, and takes no error for a success.
func TestSpin(t *testing.T) {
	status := http.StatusOK
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(status)
		io.WriteString(w, strings.Repeat("x", 100)) //nolint:errcheck // the client notices
	}))
	defer server.Close()
	hit := func() error {
		_, err := spin(t.Context(), server.Listener.Addr().String(), 4, 10, func(buf []byte, _ int) []byte {
			return append(buf, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"...)
		})
		return err
	}
	if err := hit(); err != nil || asked.Load() != 10 {
		t.Errorf("%d requests, %v", asked.Load(), err)
	}
	status = http.StatusGone
	if err := hit(); err == nil {
		t.Error("410 was taken for an answer")
	}
}

func TestEachStopsAtTheFirstError(t *testing.T) {
	bad := errors.New("bad")
	err := each(t.Context(), 1, 10, func(_ context.Context, i int) error {
		if i > 3 {
			t.Errorf("%d was begun", i)
		}
		if i == 3 {
			return bad
		}
		return nil
	})
	if err != bad {
		t.Error(err)
	}
	if err := each(t.Context(), 3, 10, func(context.Context, int) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestPercentile(t *testing.T) {
	if p := percentile([]int{1, 2, 3, 4}, 0.99); p != 4 {
		t.Error(p)
	}
	if p := percentile([]int{1, 2, 3, 4}, 0.5); p != 3 {
		t.Error(p)
	}
}

// A round in which the machine was busy counts no more than any other.
func TestPaired(t *testing.T) {
	r := paired("", "", []float64{100, 10, 300}, []float64{100, 20, 200}, "/s", atLeast(0.9, 1))
	if r.Measure.Value != 1 || r.Ours.Value != 100 || r.Against.Value != 100 {
		t.Errorf("%+v", r)
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Error(m)
	}
	if s := sigma([]float64{1, 3, 1, 3}); math.Abs(s-math.Sqrt(math.Pi/6)) > 1e-9 {
		t.Error(s)
	}
}
