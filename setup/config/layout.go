package config

import (
	"reflect"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/setup/config"
	"gopkg.in/yaml.v3"
)

// Mistakes in the layout of dendrite.yaml that Dendrite silently ignores: a section that occurs twice, of which only
// one counts, and a section with a misspelt name, which is not read.

const section = "future_server"

// sections returns the names of all sections, Dendrite's and ours.
func sections() []string {
	names := []string{section}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[config.Dendrite]()) {
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// layout reports keys of a mapping that occur twice, and keys that nearly match one of names.
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

// isNearly reports whether written is probably a misspelling of meant: they differ only in separators, or in two
// letters.
func isNearly(written, meant string) bool {
	bare := func(s string) string {
		return strings.NewReplacer("_", "", "-", "", " ", "", ".", "").Replace(strings.ToLower(s))
	}
	a, b := bare(written), bare(meant)
	return distance(a, b) <= min(2, len(b)/4) || b == "futureserver" && strings.HasPrefix(a, "future")
}

// distance is the number of letters to change, add or remove to turn one word into the other.
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
