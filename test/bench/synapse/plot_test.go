package synapse_test

import (
	"encoding/json"
	"fmt"
	"html"
	"os"
	"strings"
	"testing"
)

// Sizes of the drawing, in pixels.
const (
	width, rowHeight, barHeight = 800, 92, 18
	left, right                 = 90, 90 // for the names and the numbers
)

// draw draws the results as pairs of bars. In each pair the longer one has the whole width; shorter is better.
func draw(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile(*results)
	if err != nil {
		t.Fatal(err)
	}
	var all []result
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	height := rowHeight*len(all) + 10
	var svg strings.Builder
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="14">`+"\n", width, height)
	fmt.Fprintf(&svg, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	for i, r := range all {
		top := i*rowHeight + 24
		what := strings.ToUpper(r.What[:1]) + r.What[1:]
		fmt.Fprintf(&svg, `<text x="10" y="%d" font-weight="bold" fill="#222222">%s</text>`+"\n", top, html.EscapeString(what))
		for j, b := range []struct {
			name, colour string
			value        float64
		}{{"ours", "#1b7f4b", r.Ours}, {"Synapse", "#8a8f98", r.Synapse}} {
			y := top + 12 + j*(barHeight+6)
			length := max(2, b.value/max(r.Ours, r.Synapse)*(width-left-right))
			fmt.Fprintf(&svg, `<text x="10" y="%d" fill="#222222">%s</text>`+"\n", y+barHeight-4, b.name)
			fmt.Fprintf(&svg, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", left, y, length, barHeight, b.colour)
			fmt.Fprintf(&svg, `<text x="%.1f" y="%d" fill="#222222">%s %s</text>`+"\n", left+length+6, y+barHeight-4, short(b.value), r.Unit)
		}
	}
	svg.WriteString("</svg>\n")
	if err := os.WriteFile(*plot, []byte(svg.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// short writes a number with two or more digits.
func short(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
