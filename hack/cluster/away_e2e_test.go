//go:build e2e

package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
)

// away ends and cuts off one part after another. None of it may be seen on the nodes.
func away(s *site) string {
	daemons, since := s.daemons(), s.transitions()
	pods := s.pods()
	first, err := s.leader(s.Context())
	if err != nil {
		s.Fatal(err)
	}

	s.kubectl("delete", "pod", "-n", namespace, "-l", "app.kubernetes.io/component=agent", "--field-selector", "spec.nodeName=node-1",
		"--grace-period=0", "--force")
	s.kubectl("delete", "pod", "-n", namespace, first, "--grace-period=0", "--force")
	s.await("another leader", func(ctx context.Context) error {
		now, err := s.leader(ctx)
		if err == nil && (now == first || now == "") {
			err = fmt.Errorf("it is %q", now)
		}
		return err
	})
	s.fresh()

	const long = 2 * time.Minute
	if err := s.c.StopAPIServer(s.Context()); err != nil {
		s.Fatal(err)
	}
	s.pass(long)
	if err := s.c.StartAPIServer(s.Context()); err != nil {
		s.Fatal(err)
	}
	s.fresh()

	if err := s.c.StopRegistry(); err != nil {
		s.Fatal(err)
	}
	s.pass(long)
	if err := s.c.StartRegistry(); err != nil {
		s.Fatal(err)
	}
	s.fresh()
	if now := s.transitions(); !maps.Equal(now, since) {
		s.Errorf("conditions have changed meanwhile: %v, before %v", now, since)
	}

	n := s.c.Node("node-3")
	if err := n.CutOff(s.Context()); err != nil {
		s.Fatal(err)
	}
	s.awaitLong(n.Name+" to become Unknown", func(ctx context.Context) error {
		is, err := s.node(ctx, n.Name)
		if got := says(is, "HotplateReady"); err == nil && !strings.HasPrefix(got, "Unknown AgentSilent") {
			err = fmt.Errorf("it says %q", got)
		}
		return err
	})
	if err := n.Reconnect(s.Context()); err != nil {
		s.Fatal(err)
	}
	s.becomes(n.Name, "True Ready", "hotplate.dev/ready=true")
	s.fresh()
	s.sameDaemons(daemons)
	s.samePods(pods)
	return fmt.Sprintf("agent and leader killed, API and registry away for %s each: nodes stayed Ready; a node cut off: Unknown, then Ready "+
		"again; nothing was restarted", long)
}

// pass lets time go by, in which something is away: that is what is tested.
func (s *site) pass(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.Context().Done():
	}
}

// pods are those of users, with their containers and how often they began anew.
func (s *site) pods() string {
	s.Helper()
	return s.kubectl("get", "pods", "-n", "default", "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{"\n"}{end}`)
}

// samePods checks that pods are what they were.
func (s *site) samePods(were string) {
	s.Helper()
	if now := s.pods(); now != were {
		s.Errorf("pods are\n%s\nand were\n%s", now, were)
	}
}

// fresh waits until a leader has heard every node after this call.
func (s *site) fresh() {
	s.Helper()
	began := time.Now()
	s.await("the leader to hear every node", func(ctx context.Context) error {
		heard, err := s.heard(ctx)
		for _, n := range s.c.Nodes() {
			if at, ok := heard[n.Name]; err == nil && (!ok || at.Before(began)) {
				err = fmt.Errorf("%s was heard at %s", n.Name, at)
			}
		}
		return err
	})
	if _, err := s.c.WaitPodsReady(s.Context(), namespace, "app.kubernetes.io/component=agent", len(s.c.Nodes())); err != nil {
		s.Fatal(errors.Join(errors.New("agents are not ready"), err))
	}
}
