package rtc

import "testing"

// TestNames has the examples of MSC4195.
func TestNames(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{roomAlias("!roomid:example.com", "slot1234"), "O8437W3+jmzMVjoIP3tNwbm+XxHQk2iKpOA7aqw3qSc"},
		{pseudonym("!roomid:example.com", "slot123", "random123"), "IMeDd+K3MIqJTI20EXBIrepKkhhORvf3q8fx3rlrhTk"},
		{participant{"@alice:example.com", "", "memberABC"}.identity(), "M3VnsLXrkbxIDINXO64u8PZzFyD9ZYFiQULR2dshWYs"},
		{participant{"@alice:example.com", "DEVICE123", "memberABC"}.identity(), "J+T45tGruxc+HrUOqJJlyQSV33m728Cme4+vt8/SWrU"},
		{participant{"@alice:example.com", "DEVICE123", ""}.identity(), "@alice:example.com:DEVICE123"},
		// sha256 of ["a<>&\u2028"] as canonical JSON: none of these is escaped
		{pseudonym("a<>&\u2028"), "n2/Y6JiD23UqlVnpp8Y+kEB48Z3A5tANxtJ538ykSp0"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
}

func TestSameURL(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"wss://h", "wss://h/", true},
		{"wss://h", "WSS://H:443", true},
		{"ws://h:80/p", "ws://h/p/", true},
		{"wss://h", "ws://h", false},
		{"wss://h", "wss://h:80", false},
		{"wss://h/P", "wss://h/p", false},
		{"wss://h", "%", false},
	} {
		if got := sameURL(c.a, c.b); got != c.same {
			t.Errorf("%s and %s: %v", c.a, c.b, got)
		}
	}
}
