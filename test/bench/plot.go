package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"

	"github.com/wcharczuk/go-chart/v2"
)

// draw plots how costs grow, each relative to its value for the smallest number of futures, on logarithmic axes. A line
// parallel to the diagonal grows like the number of futures; a level line does not grow.
func draw(path string, all []growth) (err error) {
	if len(all) < 2 {
		return errors.New("a plot needs two numbers of futures at least")
	}
	first, last := all[0], all[len(all)-1]
	var series []chart.Series
	for i, cost := range []struct {
		name string
		of   func(growth) float64
	}{
		{"heap", func(g growth) float64 { return g.Heap * float64(g.Futures) }},
		{"recovery", func(g growth) float64 { return g.Recovery }},
		{"CPU time of a refresh", func(g growth) float64 { return g.Refresh }},
		{"p99 lateness", func(g growth) float64 { return g.Lateness }},
	} {
		line := chart.ContinuousSeries{Name: cost.name, Style: chart.Style{
			StrokeColor: chart.GetDefaultColor(i), StrokeWidth: 2, DotWidth: 4, DotColor: chart.GetDefaultColor(i),
		}}
		for _, g := range all {
			line.XValues = append(line.XValues, math.Log10(float64(g.Futures)))
			line.YValues = append(line.YValues, math.Log10(cost.of(g)/cost.of(first)))
		}
		series = append(series, line)
	}
	most := float64(last.Futures) / float64(first.Futures)
	graph := chart.Chart{
		Width: 800, Height: 500,
		Background: chart.Style{Padding: chart.Box{Top: 60, Left: 20, Right: 20, Bottom: 20}},
		XAxis:      chart.XAxis{Name: "futures", Ticks: decades(float64(first.Futures), float64(last.Futures))},
		YAxis:      chart.YAxis{Name: fmt.Sprintf("times the cost with %d", first.Futures), Ticks: decades(0.1, most)},
		Series:     series,
	}
	graph.Elements = []chart.Renderable{chart.LegendThin(&graph)}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(graph.Render(chart.SVG, f), f.Close())
}

// decades are the powers of ten between two numbers, at their logarithms.
func decades(from, to float64) (ticks []chart.Tick) {
	for v := from; v < to*1.5; v *= 10 {
		ticks = append(ticks, chart.Tick{Value: math.Log10(v), Label: strconv.FormatFloat(v, 'f', -1, 64)})
	}
	return ticks
}
