package judge

import (
	"fmt"
	"slices"
	"strings"
)

// Report is the judgement. The first block counts what happened, the second what must not.
type Report struct {
	Accepted, Sent, Cancelled, Invalidated, Discarded int

	Lost    int // accepted, due, and no event
	Doubled int // more than one event of a group
	Early   int // an event before its deadline
	Stale   int // an event although newer state was there in time
	Revived int // an event of a cancelled future
	Unasked int // an event that nobody asked for
	Respent int // a token that worked more than once

	Problems []string // the same in words, the first hundred
	lateness []int64  // ms, of those that their timer sent
}

func (r *Report) problem(counter *int, format string, args ...any) {
	*counter++
	if len(r.Problems) < 100 {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Good reports whether every promise was kept.
func (r *Report) Good() bool {
	return r.Lost+r.Doubled+r.Early+r.Stale+r.Revived+r.Unasked+r.Respent == 0
}

// Lateness returns how many ms after its deadline the given share of the timed events came, downtime
// included; 1 is the latest.
func (r *Report) Lateness(share float64) int64 {
	if len(r.lateness) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(r.lateness))
	return max(0, sorted[int(share*float64(len(sorted)-1))])
}

// String is the report as people read it.
func (r *Report) String() string {
	var b strings.Builder
	line := func(name string, value any) { fmt.Fprintf(&b, "%-28s %v\n", name, value) }
	line("futures accepted", r.Accepted)
	line("  sent", r.Sent)
	line("  cancelled", r.Cancelled)
	line("  invalidated by newer state", r.Invalidated)
	line("  discarded with their group", r.Discarded)
	line("late, median and worst", fmt.Sprintf("%d ms, %d ms (the server's downtime included)", r.Lateness(0.5), r.Lateness(1)))
	line("lost", r.Lost)
	line("doubled", r.Doubled)
	line("early", r.Early)
	line("after newer state", r.Stale)
	line("after being cancelled", r.Revived)
	line("unasked for", r.Unasked)
	line("tokens that worked twice", r.Respent)
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "! %s\n", p)
	}
	return b.String()
}
