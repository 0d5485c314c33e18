// Command bench measures what futures cost, as ratios inside one run: ours and the comparison take turns, and the least
// CPU time or the best round of each counts, or the median of the rounds' ratios. docs/performance.md says what each
// row means. What a user would do over HTTP is done over HTTP, to the real program in a process of its own.
//
//	go run ./test/bench                        every row
//	go run ./test/bench -quick                 smaller, in about two minutes
//	go run ./test/bench -only refresh,memory   some rows
//	go run ./test/bench -scale -plot FILE.svg  how costs grow from 10 thousand to 10 million futures
//
// It needs Linux. PostgreSQL is measured too if POSTGRES_HOST names a server (test/postgres.sh starts one, with
// POSTGRES_OPTIONS="-c fsync=on").
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/matrix-org/dendrite/setup/config"
	"github.com/sirupsen/logrus"
)

// bench is one run of the program.
type bench struct {
	quick    bool
	dir      string // for temporary files
	binaries map[string]string
	seeded   map[kind]config.DataSource
	made     int // number of folders and databases
	undo     []func()
}

// row is one row of the table, or several that are measured together.
type row struct {
	name string
	run  func(*bench, context.Context) ([]Result, error)
}

func rows() []row {
	return []row{
		{"refresh", refreshCPU},
		{"bearer", bearerCPU},
		{"transactions", transactions},
		{"durable", durableRefreshes},
		{"writes", rowsPerRefresh},
		{"memory", memory},
		{"lateness", lateness},
		{"firing", firingRate},
		{"storm", storm},
		{"recovery", recovery},
		{"creation", creation},
		{"consumer", consumerCost},
		{"server", serverRate},
	}
}

func main() {
	logrus.SetLevel(logrus.FatalLevel) // servers are stopped abruptly here, and would log it
	if job := os.Getenv(jobVariable); job != "" {
		os.Exit(runJob(job))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	set := flag.NewFlagSet("bench", flag.ExitOnError) // Dendrite has flags of its own in the common set
	quick := set.Bool("quick", false, "measure with smaller numbers")
	only := set.String("only", "", "measure these rows only, separated by commas")
	file := set.String("json", "", "write the results to this file too")
	needPostgres := set.Bool("postgres", false, "fail if there is no PostgreSQL")
	grow := set.Bool("scale", false, "measure how costs grow with the number of futures instead")
	most := set.Int("most", 10_000_000, "with -scale: the largest number of futures")
	plot := set.String("plot", "", "with -scale: draw the growth into this SVG file")
	profile := set.String("cpuprofile", "", "write a CPU profile of what runs in this process")
	_ = set.Parse(os.Args[1:])
	if *needPostgres && !hasPostgres() {
		return errors.New("POSTGRES_HOST is not set")
	}
	b := &bench{quick: *quick, binaries: map[string]string{}, seeded: map[kind]config.DataSource{}}
	if b.dir, err = os.MkdirTemp("", "futures-bench-"); err != nil {
		return err
	}
	defer b.cleanUp()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if *grow {
		return scale(ctx, b, *most, *plot)
	}
	return b.measure(ctx, *only, *file)
}

// measure runs the rows, prints the table, and fails if a row is below its floor.
func (b *bench) measure(ctx context.Context, only, file string) error {
	chosen := rows()
	if only != "" {
		names := strings.Split(only, ",")
		chosen = slices.DeleteFunc(chosen, func(r row) bool { return !slices.Contains(names, r.name) })
		if len(chosen) != len(names) {
			return fmt.Errorf("-only %s: the rows are %s", only, rowNames())
		}
	}
	r := newReport(b.quick)
	var failed error
	for _, row := range chosen {
		started := time.Now()
		fmt.Fprintf(os.Stderr, "%-9s ", row.name)
		results, err := row.run(b, ctx)
		r.add(row.name, results)
		fmt.Fprintf(os.Stderr, "%5.1f s  %s\n", time.Since(started).Seconds(), r.verdicts(row.name))
		if err != nil {
			fmt.Fprintln(os.Stderr, "         ", err)
			failed = errors.Join(failed, fmt.Errorf("%s: %w", row.name, err))
		}
		runtime.GC() // so that no row pays for the one before
		if ctx.Err() != nil {
			break
		}
	}
	fmt.Println()
	r.print(os.Stdout)
	if file != "" {
		failed = errors.Join(failed, r.write(file))
	}
	return errors.Join(failed, r.err())
}

func rowNames() string {
	var names []string
	for _, r := range rows() {
		names = append(names, r.name)
	}
	return strings.Join(names, ", ")
}

// size chooses between the two sizes of a run.
func size[T any](b *bench, full, quick T) T {
	if b.quick {
		return quick
	}
	return full
}

// folder makes a new one.
func (b *bench) folder() (string, error) {
	b.made++
	dir := filepath.Join(b.dir, fmt.Sprint(b.made))
	return dir, os.Mkdir(dir, 0o700)
}

// cleanUp drops the databases and all files.
func (b *bench) cleanUp() {
	for _, undo := range slices.Backward(b.undo) {
		undo()
	}
	os.RemoveAll(b.dir)
}

// pause waits, or returns early with the reason.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// closing closes; errors no longer matter.
func closing(c io.Closer) { _ = c.Close() }
