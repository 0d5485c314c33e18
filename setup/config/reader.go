package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// A reader reads values from YAML and collects the errors.
type reader struct {
	file string
	errs []error
}

// A field parses the value of the key with that full name. If node is nil, the default stays.
type field func(key string, node *yaml.Node)

type fields map[string]field

func (r *reader) fail(key string, node *yaml.Node, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s: line %d: %s: %s", r.file, node.Line, key, fmt.Sprintf(format, args...)))
}

// section parses a mapping. An empty section has only defaults.
func (r *reader) section(key string, node *yaml.Node, known fields) {
	node = resolved(node)
	if node == nil {
		return
	}
	if node.Kind != yaml.MappingNode {
		r.fail(key, node, "should hold keys and values")
		return
	}
	seen := make(map[string]bool)
	for i := 0; i < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		full := key + "." + name.Value
		switch read, ok := known[name.Value]; {
		case !ok:
			r.fail(full, name, "unknown key")
		case seen[name.Value]:
			r.fail(full, name, "stands here twice")
		default:
			read(full, resolved(value))
		}
		seen[name.Value] = true
	}
}

func (r *reader) nested(known fields) field {
	return func(key string, node *yaml.Node) { r.section(key, node, known) }
}

// scalar parses one value. The error of parse says what the value should be.
func scalar[T any](r *reader, to *T, parse func(string) (T, error)) field {
	return func(key string, node *yaml.Node) {
		if node == nil {
			return
		}
		if node.Kind != yaml.ScalarNode {
			r.fail(key, node, "should be a single value")
			return
		}
		v, err := parse(node.Value)
		if err != nil {
			r.fail(key, node, "%q %v", node.Value, err)
			return
		}
		*to = v
	}
}

func (r *reader) text(to *string) field {
	return scalar(r, to, func(s string) (string, error) { return s, nil })
}

func (r *reader) boolean(to *bool) field {
	return scalar(r, to, func(s string) (bool, error) {
		switch strings.ToLower(s) {
		case "true", "yes", "on":
			return true, nil
		case "false", "no", "off":
			return false, nil
		}
		return false, fmt.Errorf("is neither true nor false")
	})
}

func (r *reader) integer(to *int, least, most int) field {
	return scalar(r, to, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0, fmt.Errorf("is not a whole number")
		}
		return within(n, least, most)
	})
}

func (r *reader) number(to *float64, least, most float64) field {
	return scalar(r, to, func(s string) (float64, error) {
		x, err := strconv.ParseFloat(s, 64)
		if err != nil || x != x {
			return 0, fmt.Errorf("is not a number")
		}
		return within(x, least, most)
	})
}

func (r *reader) duration(to *time.Duration, least, most time.Duration) field {
	return scalar(r, to, func(s string) (time.Duration, error) {
		d, err := parseDuration(s)
		if err != nil {
			return 0, fmt.Errorf("is not a duration; write it with a unit, as in 500ms, 30s, 12h or 7d")
		}
		return within(d, least, most)
	})
}

func within[T int | float64 | time.Duration](v, least, most T) (T, error) {
	if v < least || v > most {
		return v, fmt.Errorf("is not between %s and %s", spelt(least), spelt(most))
	}
	return v, nil
}

func spelt(v any) string {
	if d, ok := v.(time.Duration); ok {
		return Spell(d)
	}
	return fmt.Sprint(v)
}

// levels reads power levels by the types of events. They replace the default; {} is none.
func (r *reader) levels(to *map[string]int64) field {
	return func(key string, node *yaml.Node) {
		if node == nil {
			return
		}
		if node.Kind != yaml.MappingNode {
			r.fail(key, node, "should hold types of events and their levels, as in m.rtc.member: 0")
			return
		}
		levels := make(map[string]int64)
		for i := 0; i < len(node.Content); i += 2 {
			name, level := node.Content[i], 0
			if _, twice := levels[name.Value]; twice {
				r.fail(key+"."+name.Value, name, "stands here twice")
			}
			r.integer(&level, 0, 100)(key+"."+name.Value, resolved(node.Content[i+1]))
			levels[name.Value] = int64(level)
		}
		*to = levels
	}
}

// prefixes parses a list of networks. A single address is a network of one.
func (r *reader) prefixes(to *[]netip.Prefix) field {
	return func(key string, node *yaml.Node) {
		node = resolved(node)
		if node == nil {
			return
		}
		if node.Kind != yaml.SequenceNode {
			r.fail(key, node, "should be a list of networks, as in [192.0.2.0/24]")
			return
		}
		list := make([]netip.Prefix, 0, len(node.Content))
		for _, item := range node.Content {
			var p netip.Prefix
			scalar(r, &p, parsePrefix)(key, resolved(item))
			list = append(list, p)
		}
		*to = list
	}
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" {
			return p, fmt.Errorf("is not a network; write it as in 192.0.2.0/24")
		}
		p = netip.PrefixFrom(addr, addr.BitLen())
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 { // addresses are unmapped before they are compared
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// member returns the value of a key, or nil if it is absent or null.
func member(node *yaml.Node, key string) *yaml.Node {
	if node = resolved(node); node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return resolved(node.Content[i+1])
		}
	}
	return nil
}

// resolved follows an alias to its anchor. It returns nil for null.
func resolved(node *yaml.Node) *yaml.Node {
	for node != nil && node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node == nil || node.Tag == "!!null" {
		return nil
	}
	return node
}
