package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

const previewed = 20 // futures that are shown before a cancellation

func list(ctx context.Context, c *client, args []string) error {
	o := newOptions(c, "list")
	o.text("state", "state", "live (unless given), finished, or states with commas between: scheduled, sending, sent, failed, cancelled, invalidated, discarded")
	newest := o.Bool("newest", false, "The newest first")
	limit := o.Int("limit", 0, "At most so many; 0: all")
	if err := o.parse(args); err != nil {
		return err
	}
	if *newest {
		o.query.Set("dir", "b")
	}
	n, err := c.print(ctx, o.query, *limit)
	if err == nil {
		fmt.Fprintln(c.out, count(n, ""))
	}
	return err
}

func show(ctx context.Context, c *client, args []string) error {
	if len(args) != 1 {
		return errors.New("show takes the id of one future")
	}
	a, err := c.futures(ctx, url.Values{"id": args})
	if err != nil {
		return err
	}
	if len(a.Futures) == 0 {
		return fmt.Errorf("there is no future %s, or it has been forgotten", args[0])
	}
	f := &a.Futures[0]
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, plain(value))
		}
	}
	line("id", strconv.FormatInt(f.ID, 10))
	line("kind", f.Kind)
	line("state", f.State)
	line("user", f.User)
	line("room", f.Room)
	line("type", f.Type)
	if f.StateKey != nil {
		line("state key", strconv.Quote(*f.StateKey))
	}
	if f.Timeout != 0 {
		line("timeout", (time.Duration(f.Timeout) * time.Millisecond).String())
	}
	line("created", moment(f.Created))
	line("deadline", moment(f.Deadline))
	line("ended", moment(f.Finished))
	line("event", f.EventID)
	line("reason", f.Reason)
	line("error", f.Error)
	return w.Flush()
}

func cancel(ctx context.Context, c *client, args []string) error {
	o := newOptions(c, "cancel")
	o.text("id", "id", "The future of this number")
	yes := o.Bool("yes", false, "Do it")
	if err := o.parse(args); err != nil {
		return err
	}
	if !o.query.Has("user_id") && !o.query.Has("room_id") && !o.query.Has("id") {
		return errors.New("cancel needs -user, -room or -id")
	}
	if *yes {
		var done struct{ Cancelled int }
		if err := c.do(ctx, http.MethodDelete, o.query, &done); err != nil {
			return err
		}
		_, err := fmt.Fprintln(c.out, count(done.Cancelled, "cancelled"))
		return err
	}
	preview := maps.Clone(o.query)
	preview.Set("dry_run", "true")
	var would struct {
		Would int `json:"would_cancel"`
	}
	if err := c.do(ctx, http.MethodDelete, preview, &would); err != nil {
		return err
	}
	o.query.Set("state", "scheduled")
	n, err := c.print(ctx, o.query, previewed)
	if err != nil {
		return err
	}
	if n < would.Would {
		fmt.Fprintln(c.out, "…")
	}
	_, err = fmt.Fprintln(c.out, count(would.Would, "to be cancelled; -yes does it"))
	return err
}

// print prints at most limit futures as a table (0: no limit), and returns how many there were.
func (c *client) print(ctx context.Context, query url.Values, limit int) (n int, err error) {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for {
		query.Set("limit", strconv.Itoa(min(pageSize, cmp.Or(limit-n, pageSize))))
		if limit == 0 {
			query.Set("limit", strconv.Itoa(pageSize))
		}
		a, err := c.futures(ctx, query)
		if err != nil {
			return n, err
		}
		if n == 0 && len(a.Futures) > 0 {
			fmt.Fprintln(w, "ID\tKIND\tSTATE\tUSER\tROOM\tTYPE\tDEADLINE\tENDED\tREASON")
		}
		for i := range a.Futures {
			f := &a.Futures[i]
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.ID, f.Kind, f.State, plain(f.User), plain(f.Room), plain(f.Type),
				cmp.Or(moment(f.Deadline), "-"), cmp.Or(moment(f.Finished), "-"), cmp.Or(f.Reason, "-"))
		}
		n += len(a.Futures)
		if a.Next == 0 || limit != 0 && n >= limit {
			return n, w.Flush()
		}
		query.Set("from", strconv.FormatInt(a.Next, 10))
	}
}

func count(n int, what string) string {
	noun := "futures"
	if n == 1 {
		noun = "future"
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", n, noun, what))
}

// moment formats a Unix time in ms; "" for 0.
func moment(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

// plain removes control characters, which a terminal would obey, from text that any user may have chosen.
func plain(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) }) {
		return strconv.QuoteToGraphic(s)
	}
	return s
}
