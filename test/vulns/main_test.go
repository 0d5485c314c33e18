package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

const stream = `
{"config": {"scanner_name": "govulncheck"}}
{"osv": {"id": "GO-2000-0001", "summary": "one"}}
{"osv": {"id": "GO-2000-0002", "summary": "two"}}
{"finding": {"osv": "GO-2000-0001", "fixed_version": "v1.2.0", "trace": [{"module": "example.org/a", "version": "v1.0.0", "package": "example.org/a/b", "function": "F"}]}}
{"finding": {"osv": "GO-2000-0001", "fixed_version": "v1.2.0", "trace": [{"module": "example.org/a", "version": "v1.0.0"}]}}
{"finding": {"osv": "GO-2000-0002", "trace": [{"module": "example.org/c", "version": "v0.1.0"}]}}
{"finding": {"osv": "GO-2000-0003", "fixed_version": "v1.26.9", "trace": [{"module": "stdlib", "version": "v1.26.8", "package": "net/http"}]}}
{"finding": {"osv": "GO-2000-0004", "fixed_version": "v1.26.10", "trace": [{"module": "stdlib", "version": "v1.26.8"}]}}
`

func TestParse(t *testing.T) {
	found, err := parse(strings.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	want := []advisory{
		{"GO-2000-0001", "example.org/a", "v1.0.0", "v1.2.0", "one", called},
		{"GO-2000-0002", "example.org/c", "v0.1.0", "", "two", required},
		{"GO-2000-0003", "stdlib", "v1.26.8", "v1.26.9", "", imported},
		{"GO-2000-0004", "stdlib", "v1.26.8", "v1.26.10", "", required},
	}
	if !slices.Equal(found, want) {
		t.Errorf("got  %v\nwant %v", found, want)
	}
	if _, err := parse(strings.NewReader(stream[:len(stream)-20])); err == nil {
		t.Error("a stream that ends early is taken for whole")
	}
}

func TestJudge(t *testing.T) {
	found, _ := parse(strings.NewReader(stream))
	for page, want := range map[string][]string{
		"| GO-2000-0001 | x |\n| GO-2000-0002 | y |":                       {},
		"| GO-2000-0001 | x |":                                             {"GO-2000-0002"},
		"GO-2000-0002 in a sentence is no row":                             {"GO-2000-0001", "GO-2000-0002"},
		"| GO-2000-0001 | x |\n| GO-2000-0002 | y |\n| GO-1999-0001 | z |": {"GO-1999-0001"},
	} {
		report, problems := judge(found, listed(page))
		if len(problems) != len(want) {
			t.Errorf("%s: %v", page, errors.Join(problems...))
			continue
		}
		for i, id := range want {
			if !strings.HasPrefix(problems[i].Error(), id+" ") && !strings.HasPrefix(problems[i].Error(), id+":") {
				t.Errorf("%s: %v, want %s", page, problems[i], id)
			}
		}
		if all := strings.Join(report, "\n"); !strings.Contains(all, "2 advisories of the Go") || !strings.Contains(all, "1.26.10 and newer") {
			t.Errorf("%s", all)
		}
	}
}
