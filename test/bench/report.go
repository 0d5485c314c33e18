package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Figure is a number with its unit.
type Figure struct {
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// String shows three significant digits.
func (f Figure) String() string {
	if f.Unit == "" && f.Value == 0 {
		return "–"
	}
	v := math.Abs(f.Value)
	switch {
	case v >= 10_000 && f.Unit == "/s":
		return strconv.FormatFloat(math.Round(f.Value/100)/10, 'f', -1, 64) + " k/s"
	case v >= 100:
		return fmt.Sprintf("%.0f %s", f.Value, f.Unit)
	case v >= 10:
		return fmt.Sprintf("%.1f %s", f.Value, f.Unit)
	}
	return fmt.Sprintf("%.3g %s", f.Value, f.Unit)
}

// Bound is the floor and goal of a measure. The zero value has none.
type Bound struct {
	Floor   float64 `json:"floor"`
	Goal    float64 `json:"goal"`
	AtLeast bool    `json:"at_least"` // otherwise at most
}

func atMost(floor, goal float64) Bound  { return Bound{Floor: floor, Goal: goal} }
func atLeast(floor, goal float64) Bound { return Bound{Floor: floor, Goal: goal, AtLeast: true} }

// Verdict compares a measure with its bound.
type Verdict string

const (
	shown   Verdict = "" // has no bound
	reached Verdict = "goal"
	even    Verdict = "at the goal" // which side of it is chance
	between Verdict = "above floor"
	missed  Verdict = "BELOW FLOOR"
)

// judge takes a measure and its standard error, or 0. A measure that is closer to the goal than twice the error may be
// on the other side in the next run. A floor has no tolerance.
func (b Bound) judge(v, sigma float64) Verdict {
	within := func(limit float64) bool { return b.AtLeast && v >= limit || !b.AtLeast && v <= limit }
	switch {
	case b == Bound{}:
		return shown
	case math.IsNaN(v) || !within(b.Floor):
		return missed
	case math.Abs(v-b.Goal) < 2*sigma:
		return even
	case within(b.Goal):
		return reached
	}
	return between
}

// Result is one line of the table.
type Result struct {
	Row     string  `json:"row"`
	What    string  `json:"what"`
	How     string  `json:"how"` // measured in process or over HTTP, and other notes
	Ours    Figure  `json:"ours"`
	Against Figure  `json:"against"`
	Measure Figure  `json:"measure"` // the judged value: usually the ratio of the two
	Sigma   float64 `json:"sigma"`   // its standard error; 0 if chance does not matter
	Bound   Bound   `json:"bound"`
	Verdict Verdict `json:"verdict"`
}

// ratio is a result whose measure is ours divided by theirs.
func ratio(what, how string, ours, against float64, unit string, bound Bound) Result {
	return Result{What: what, How: how, Ours: Figure{ours, unit}, Against: Figure{against, unit},
		Measure: Figure{ours / against, "×"}, Bound: bound}
}

// difference is a result whose measure is ours minus theirs.
func difference(what, how string, ours, against float64, unit string, bound Bound) Result {
	return Result{What: what, How: how, Ours: Figure{ours, unit}, Against: Figure{against, unit},
		Measure: Figure{ours - against, unit}, Bound: bound}
}

// plain is a result that is its own measure.
func plain(what, how string, ours float64, unit string, bound Bound) Result {
	return Result{What: what, How: how, Ours: Figure{ours, unit}, Measure: Figure{ours, unit}, Bound: bound}
}

// report has the results of a run. Its fields are written by -json.
type report struct {
	Time    time.Time `json:"time"`
	Quick   bool      `json:"quick"`
	Go      string    `json:"go"`
	CPUs    int       `json:"cpus"`
	Load    float64   `json:"load_average"` // of the minute before the start
	Results []Result  `json:"results"`
}

func newReport(quick bool) *report {
	r := &report{Time: time.Now().UTC().Truncate(time.Second), Quick: quick, Go: runtime.Version(), CPUs: runtime.NumCPU()}
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		fmt.Sscan(string(data), &r.Load) //nolint:errcheck // 0 is right where nobody knows
	}
	return r
}

func (r *report) add(row string, results []Result) {
	for _, result := range results {
		result.Row, result.Verdict = row, result.Bound.judge(result.Measure.Value, result.Sigma)
		r.Results = append(r.Results, result)
	}
}

func (r *report) verdicts(row string) string {
	var list []string
	for _, result := range r.Results {
		if result.Row == row && result.Verdict != shown {
			list = append(list, string(result.Verdict))
		}
	}
	return strings.Join(list, ", ")
}

func (r *report) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "row\twhat\tours\tagainst\tratio\tfloor\tgoal\tverdict\thow")
	for i, result := range r.Results {
		name := result.Row
		if i > 0 && r.Results[i-1].Row == name {
			name = ""
		}
		measure := result.Measure.String()
		if result.Sigma != 0 {
			measure += fmt.Sprintf(" ± %.2g", result.Sigma)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, result.What, result.Ours, result.Against,
			measure, result.limit(result.Bound.Floor), result.limit(result.Bound.Goal), result.Verdict, result.How)
	}
	w.Flush()
	fmt.Fprintf(out, "\n%d CPUs, load %.2f at the start, %s. Ratios count; the rest depends on the machine.\n", r.CPUs, r.Load, r.Go)
	if r.Load > float64(r.CPUs) {
		fmt.Fprintln(out, "Other programs were at work. Rates and lateness are better measured on a machine that has nothing else to do.")
	}
}

func (r *Result) limit(v float64) string {
	switch {
	case r.Bound == Bound{}:
		return ""
	case r.Bound.AtLeast:
		return fmt.Sprintf("≥ %.4g", v)
	}
	return fmt.Sprintf("≤ %.4g", v)
}

func (r *report) write(file string) error {
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

// err names the rows below their floor.
func (r *report) err() error {
	var names []string
	for _, result := range r.Results {
		if result.Verdict == missed && !slices.Contains(names, result.Row) {
			names = append(names, result.Row)
		}
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("below the floor: %s", strings.Join(names, ", "))
}

// percentile returns the value below which that part of the sorted values lies.
func percentile[T any](sorted []T, part float64) T {
	if len(sorted) == 0 {
		var none T
		return none
	}
	return sorted[min(len(sorted)-1, int(part*float64(len(sorted))))]
}
