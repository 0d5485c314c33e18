package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"text/tabwriter"
	"time"
)

// clearedAtOnce is how many ghosts one request clears, so that the answer comes in time: each is an event.
const clearedAtOnce = 100

// ghost is a membership in a call that is over, in an answer of the API.
type ghost struct {
	User     string `json:"user_id"`
	Room     string `json:"room_id"`
	Type     string `json:"type"`
	StateKey string `json:"state_key"`
	Sent     int64  `json:"sent_ts"`
	Over     int64  `json:"over_ts"`
	Error    string `json:"error"`
}

// ghostPage is one answer to a request for ghosts, GET or DELETE.
type ghostPage struct {
	Ghosts  []ghost
	Cleared int
	Failed  []ghost
	Next    string
}

func ghosts(ctx context.Context, c *client, args []string) error {
	if len(args) == 0 || args[0] != "list" && args[0] != "clear" {
		return errors.New("write ghosts list or ghosts clear")
	}
	clearing := args[0] == "clear"
	o := c.options("ghosts " + args[0])
	o.text("user", "user_id", "Of this user, as @alice:example.org")
	o.text("room", "room_id", "In this room, by its ID")
	o.Func("max-age", "After how long a membership is over that does not say when it ends (default 4h)", func(s string) error {
		d, err := parseDuration(s)
		if err != nil || d < time.Millisecond {
			return errors.New("is no duration; write 4h or 7d")
		}
		o.query.Set("max_age_ms", strconv.FormatInt(d.Milliseconds(), 10))
		return nil
	})
	var yes bool
	if clearing {
		o.BoolVar(&yes, "yes", false, "Do it")
	}
	if err := o.parse(args[1:]); err != nil {
		return err
	}
	o.query.Set("limit", strconv.Itoa(pageSize))
	if yes {
		return c.clearGhosts(ctx, o)
	}
	n, err := c.listGhosts(ctx, o)
	if err != nil {
		return err
	}
	what := ""
	if clearing {
		what = "to be cleared; -yes does it"
	}
	_, err = fmt.Fprintln(c.out, count(n, "ghost", what))
	return err
}

func (c *client) listGhosts(ctx context.Context, o *options) (n int, err error) {
	err = c.ghostPages(ctx, http.MethodGet, o, func(p *ghostPage) error {
		n += len(p.Ghosts)
		return c.printGhosts(p.Ghosts)
	})
	return n, err
}

func (c *client) clearGhosts(ctx context.Context, o *options) error {
	o.query.Set("limit", strconv.Itoa(clearedAtOnce))
	cleared, failed := 0, 0
	err := c.ghostPages(ctx, http.MethodDelete, o, func(p *ghostPage) error {
		cleared, failed = cleared+p.Cleared, failed+len(p.Failed)
		return c.printGhosts(p.Failed)
	})
	fmt.Fprintln(c.out, count(cleared, "ghost", "cleared"))
	if err == nil && failed > 0 {
		return fmt.Errorf("%s could not be cleared", count(failed, "ghost", ""))
	}
	return err
}

// ghostPages hands over all pages of an answer.
func (c *client) ghostPages(ctx context.Context, method string, o *options, take func(*ghostPage) error) error {
	for {
		var p ghostPage
		if err := c.do(ctx, method, ghostsPath, o.query, &p); err != nil {
			return err
		}
		if err := take(&p); err != nil || p.Next == "" {
			return err
		}
		o.query.Set("from", p.Next)
	}
}

func (c *client) printGhosts(all []ghost) error {
	if len(all) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "USER\tROOM\tTYPE\tSTATE KEY\tSENT\tOVER\tERROR")
	for i := range all {
		g := &all[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", plain(g.User), plain(g.Room), plain(g.Type), plain(g.StateKey), moment(g.Sent), moment(g.Over), plain(g.Error))
	}
	return w.Flush()
}
