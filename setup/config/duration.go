package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const week = 7 * Day

// parseDuration parses Go's notation with two more units in front, weeks and days: 7d, 2w, 1d12h.
func parseDuration(s string) (sum time.Duration, err error) {
	rest := s
	for _, unit := range []struct {
		suffix string
		is     time.Duration
		most   uint64
	}{{"w", week, 5_000}, {"d", Day, 50_000}} { // together they do not overflow
		number, after, ok := strings.Cut(rest, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil || n > unit.most {
			return 0, errors.New("not a number of weeks or days")
		}
		sum += time.Duration(n) * unit.is
		rest = after
	}
	if rest == "" && s != "" {
		return sum, nil
	}
	d, err := time.ParseDuration(rest)
	if err == nil && rest != s && (d < 0 || d > 10*Day) {
		err = errors.New("weeks and days with too much behind them")
	}
	return sum + d, err
}

// Spell formats a duration as people write it: 49d, 1d12h, 30s.
func Spell(d time.Duration) string {
	days := d / Day
	text := ""
	if days > 0 {
		text = fmt.Sprintf("%dd", days)
		if d -= days * Day; d == 0 {
			return text
		}
	}
	rest := d.String()
	if strings.HasSuffix(rest, "m0s") {
		rest = strings.TrimSuffix(rest, "0s")
	}
	if strings.HasSuffix(rest, "h0m") {
		rest = strings.TrimSuffix(rest, "0m")
	}
	return text + rest
}
