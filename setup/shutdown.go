package setup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"
)

// Each part of the shutdown has a time limit; their sum is below StopTimeout.
const (
	pollGrace         = 2 * time.Second // for long polls to end by themselves
	requestsTimeout   = 3500 * time.Millisecond
	futuresTimeout    = 3500 * time.Millisecond
	drainTimeout      = 5 * time.Second
	componentsTimeout = 2 * time.Second
)

// StopTimeout is the longest time that Stop takes.
const StopTimeout = 14 * time.Second

func (s *Server) stopPart(ctx context.Context, name string, limit time.Duration, stop func(context.Context) error) error {
	if s.Err() != nil {
		limit = min(limit, hurriedStop) // a server that could not go on does not stop cleanly either
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	start := time.Now()
	if err := stop(ctx); err != nil {
		return fmt.Errorf("stopping %s: %w", name, err)
	}
	logrus.Infof("Stopped %s in %s", name, time.Since(start).Round(time.Millisecond))
	return nil
}

func (s *Server) stopFutures(ctx context.Context) error {
	err := s.consumer.Stop(ctx)
	if s.futures != nil {
		err = errors.Join(err, s.futures.Stop(ctx))
	}
	return err
}

func (s *Server) stopDendrite(ctx context.Context) error {
	if s.unlock != nil {
		defer s.unlock()
	}
	s.process.ShutdownDendrite()
	s.process.ComponentFinished()
	finished := make(chan struct{})
	go func() {
		s.process.WaitForComponentsToFinish()
		close(finished)
	}()
	select {
	case <-finished:
	case <-ctx.Done():
		return fmt.Errorf("waiting for Dendrite's components to finish: %w", ctx.Err())
	}
	if s.tracing != nil {
		return s.tracing.Close()
	}
	return nil
}

// abandon stops what Start has started before it failed.
func (s *Server) abandon() {
	if s.front != nil {
		s.front.close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	var errs []error
	if s.consumer != nil {
		errs = append(errs, s.stopFutures(ctx), s.consumer.Drained(ctx))
	}
	errs = append(errs, s.stopDendrite(ctx))
	s.manager.close()
	if err := errors.Join(errs...); err != nil {
		logrus.WithError(err).Warn("Not everything that was started has stopped")
	}
}

// stopService is called when Windows ends the service. The process ends when it returns.
func (s *Server) stopService() {
	if err := s.Stop(context.Background()); err != nil {
		logrus.WithError(err).Warn("The server did not stop cleanly")
	}
}
