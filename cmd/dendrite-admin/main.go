// Command dendrite-admin lists, shows and cancels futures and delayed events of a running server, and takes ghosts out of
// calls. It is for administrators and uses the server's admin API.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"
)

const usage = `dendrite-admin [-url URL] [-token-file FILE] COMMAND [OPTIONS]

  list          lists live futures; with -state also ended ones
  show ID       shows one future, live or ended
  cancel        shows which futures it would cancel; with -yes it cancels them
  ghosts list   lists memberships in calls that are over and that nothing will end
  ghosts clear  shows which ghosts it would remove from calls; with -yes it removes them

The access token of an administrator is read from the file, "-" for standard input, or else from the environment variable
DENDRITE_ADMIN_TOKEN. "dendrite-admin COMMAND -help" lists the options of a command.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "dendrite-admin:", err)
		os.Exit(1)
	}
}

// run runs one command.
func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("dendrite-admin", flag.ContinueOnError)
	flags.SetOutput(out)
	server := flags.String("url", "http://127.0.0.1:8008", "Where the server is")
	tokenFile := flags.String("token-file", "", "The file that contains the access token")
	flags.Usage = func() {
		fmt.Fprint(out, usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	commands := map[string]func(context.Context, *client, []string) error{"list": list, "show": show, "cancel": cancel, "ghosts": ghosts}
	command, ok := commands[flags.Arg(0)]
	if !ok {
		flags.Usage()
		return fmt.Errorf("there is no command %q", flags.Arg(0))
	}
	c := &client{server: strings.TrimSuffix(*server, "/"), out: out, token: func() (string, error) { return readToken(*tokenFile, in) }}
	return command(ctx, c, flags.Args()[1:])
}

// readToken reads the token from a file or from in. It is no argument, because all users can see the arguments of a
// process.
func readToken(file string, in io.Reader) (string, error) {
	data, err := []byte(os.Getenv("DENDRITE_ADMIN_TOKEN")), error(nil)
	switch file {
	case "":
	case "-":
		data, err = io.ReadAll(in)
	default:
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", errors.New("no access token; set DENDRITE_ADMIN_TOKEN or use -token-file")
	}
	return token, nil
}

// options are the options of a command.
type options struct {
	*flag.FlagSet
	query url.Values
}

func (c *client) options(name string) *options {
	o := &options{FlagSet: flag.NewFlagSet("dendrite-admin "+name, flag.ContinueOnError), query: make(url.Values)}
	o.SetOutput(c.out)
	return o
}

// newOptions adds the options that select futures for a list or a cancellation.
func newOptions(c *client, name string) *options {
	o := c.options(name)
	o.text("user", "user_id", "Of this user, as @alice:example.org")
	o.text("room", "room_id", "In this room, by its ID")
	o.text("kind", "kind", "future or delayed_event")
	o.time("since", "from_ts", "Due or ended since then: 2026-01-31T12:00:00Z, 2h (ago), or +2h (from now)")
	o.time("until", "until_ts", "Due or ended before then")
	return o
}

func (o *options) text(name, param, usage string) {
	o.Func(name, usage, func(s string) error {
		if s == "" {
			return errors.New("is empty")
		}
		o.query.Set(param, s)
		return nil
	})
}

func (o *options) time(name, param, usage string) {
	o.Func(name, usage, func(s string) error {
		at, err := parseTime(s, time.Now())
		o.query.Set(param, strconv.FormatInt(at.UnixMilli(), 10))
		return err
	})
}

// parse accepts no arguments besides the options, because a misspelt option would become one.
func (o *options) parse(args []string) error {
	if err := o.Parse(args); err != nil {
		return err
	}
	if o.NArg() > 0 {
		return fmt.Errorf("what is %q? %s takes options only", o.Arg(0), o.Name())
	}
	return nil
}

// parseTime parses a time: a timestamp, a duration before now or, with a plus sign, after now.
func parseTime(s string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return at, nil
	}
	d, err := parseDuration(strings.TrimPrefix(s, "+"))
	if err != nil || d < 0 {
		return now, errors.New("is no time; write 2026-01-31T12:00:00Z, 2h, 7d or +2h")
	}
	if strings.HasPrefix(s, "+") {
		return now.Add(d), nil
	}
	return now.Add(-d), nil
}

// parseDuration parses Go's notation, and whole days and weeks: 7d, 2w.
func parseDuration(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	for unit, is := range map[string]time.Duration{"d": day, "w": 7 * day} {
		if number, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseUint(number, 10, 13) // so that it does not overflow
			return time.Duration(n) * is, err
		}
	}
	return time.ParseDuration(s)
}
