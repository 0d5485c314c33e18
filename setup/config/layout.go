package config

import (
	"reflect"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/setup/config"
	"gopkg.in/yaml.v3"
)

// This file is about mistakes in the layout of dendrite.yaml, which Dendrite passes over in silence: a section that stands
// there twice, of which one counts, and one whose name is misspelt, which nobody reads.

const section = "future_server"

// sections are the names of all sections: Dendrite's and ours.
func sections() []string {
	names := []string{section}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[config.Dendrite]()) {
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// layout reports keys of a mapping that stand there twice, and those that are nearly one of these.
func (r *reader) layout(prefix string, node *yaml.Node, names []string) {
	if node = resolved(node); node == nil || node.Kind != yaml.MappingNode {
		return
	}
	first := make(map[string]int)
	for i := 0; i < len(node.Content); i += 2 {
		key := node.Content[i]
		if line, seen := first[key.Value]; seen {
			r.fail(prefix+key.Value, key, "stands here twice; the first is in line %d", line)
			continue
		}
		first[key.Value] = key.Line
		if slices.Contains(names, key.Value) {
			continue
		}
		if i := slices.IndexFunc(names, func(name string) bool { return isNearly(key.Value, name) }); i >= 0 {
			r.fail(prefix+key.Value, key, "nobody reads this; is it %s%s?", prefix, names[i])
		}
	}
}

// isNearly reports whether somebody who wrote one may have meant the other: they differ in signs between words, or in two
// letters.
func isNearly(written, meant string) bool {
	bare := func(s string) string {
		return strings.NewReplacer("_", "", "-", "", " ", "", ".", "").Replace(strings.ToLower(s))
	}
	a, b := bare(written), bare(meant)
	return distance(a, b) <= min(2, len(b)/4) || b == "futureserver" && strings.HasPrefix(a, "future")
}

// distance is how many letters have to be changed, added or left out to get from one word to the other.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
