package staging

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

const (
	childEnv   = "STAGING_TEST_CHILD" // the directory; in the process that is to be killed
	childSeed  = "STAGING_TEST_SEED"
	killChunk  = 16 << 10
	killChunks = 48
)

// TestChild is what the other tests kill. It says "open", then each chunk that it has written, then "whole", and waits.
func TestChild(t *testing.T) {
	path := os.Getenv(childEnv)
	if path == "" {
		t.Skip("it is run, in a process of its own, by the tests that kill it")
	}
	seed, err := strconv.ParseUint(os.Getenv(childSeed), 10, 64)
	must(t, err)
	data, desc := content(seed, killChunks*killChunk)
	d := open(t, Config{Path: path, CheckpointBytes: 8 * killChunk})
	b := take(t, d, desc, killChunk)
	fmt.Println("open")
	hashing := make(chan struct{}, killChunks)
	var g errgroup.Group
	g.SetLimit(4)
	g.Go(func() error { return follow(b, data, hashing) })
	for _, i := range rand.Perm(b.Chunks()) {
		g.Go(func() error {
			defer func() { hashing <- struct{}{} }()
			if b.Has(i) {
				return nil
			}
			if err := b.WriteChunk(i, part(b, data, i)); err != nil {
				return err
			}
			fmt.Println(i)
			return nil
		})
	}
	must(t, g.Wait())
	must(t, b.Sync())
	fmt.Println("whole")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// follow hashes in order what is there. There is a token for each chunk that may have come.
func follow(b *Blob, data []byte, tokens <-chan struct{}) error {
	h, off := b.Hashed()
	for range b.Chunks() {
		<-tokens
		for off < b.Size() && b.Has(int(off/b.ChunkSize())) {
			p := make([]byte, b.Length(int(off/b.ChunkSize())))
			if err := b.ReadChunk(int(off/b.ChunkSize()), p); err != nil {
				return err
			}
			h.Write(p)
			off += int64(len(p))
			if err := b.Progress(h, off); err != nil {
				return err
			}
		}
	}
	if !bytes.Equal(h.Sum(nil), func() []byte { h := b.digest.Algorithm().Hash(); h.Write(data); return h.Sum(nil) }()) {
		return fmt.Errorf("the hash at %d is not the blob's", off)
	}
	return nil
}

type child struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	stdin io.Closer
}

func startChild(t *testing.T, path string, seed uint64) *child {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$", "-test.v=false")
	cmd.Env = append(os.Environ(), childEnv+"="+path, childSeed+"="+strconv.FormatUint(seed, 10))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	c := &child{cmd, bufio.NewScanner(stdout), stdin}
	t.Cleanup(func() { c.kill() })
	return c
}

// kill kills the child and returns the lines that were still to be read.
func (c *child) kill() (rest []string) {
	_ = c.cmd.Process.Kill()
	for c.lines.Scan() {
		rest = append(rest, c.lines.Text())
	}
	_ = c.cmd.Wait() // it was killed
	return rest
}

// TestKilledProcess kills a process that writes a blob, again and again. Whatever it said to have written is there, with the right
// bytes, and none of it is written again.
func TestKilledProcess(t *testing.T) {
	const kills = 60
	path := filepath.Join(t.TempDir(), "staging")
	d := open(t, Config{Path: path})
	said := map[int]bool{}
	for seed, n := uint64(1), 0; n < kills; n++ {
		c := startChild(t, path, seed)
		var lines []string
		for range 1 + rand.IntN(12) {
			if !c.lines.Scan() {
				t.Fatalf("the child ended by itself after %q", lines)
			}
			if lines = append(lines, c.lines.Text()); lines[len(lines)-1] == "whole" {
				break
			}
		}
		whole := false
		for _, line := range append(lines, c.kill()...) {
			whole = whole || line == "whole"
			if i, err := strconv.Atoi(line); err == nil {
				if said[i] {
					t.Errorf("chunk %d was written twice", i)
				}
				said[i] = true
			}
		}
		data, desc := content(seed, killChunks*killChunk)
		b := take(t, d, desc, killChunk)
		there := has(t, b, data)
		for i := range said {
			if !b.Has(i) {
				t.Errorf("chunk %d must be fetched again", i)
			}
		}
		if !whole {
			for _, i := range there {
				said[i] = true // killed between its mark and its line
			}
			b.abandon()
			continue
		}
		got, err := os.ReadFile(b.Path())
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("the whole blob is wrong, %v", err)
		}
		must(t, b.Remove())
		clear(said)
		seed++
	}
	entries, err := os.ReadDir(d.cfg.Path)
	if err != nil || len(entries) > 1 {
		t.Errorf("%d blobs are left of one under way, %v", len(entries), err)
	}
}

// abandon closes as a kill does, without a checkpoint.
func (b *Blob) abandon() {
	b.end()
	b.closeFiles()
	b.unlock.Close()
}

func TestTwoProcessesWantOneBlob(t *testing.T) {
	path := filepath.Join(t.TempDir(), "staging")
	d := open(t, Config{Path: path})
	c := startChild(t, path, 1)
	for c.lines.Scan() && c.lines.Text() != "whole" {
		continue
	}
	data, desc := content(1, killChunks*killChunk)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := d.Blob(ctx, desc, killChunk, cancel); err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("a blob that another process has: %v", err)
	}
	must(t, d.Sweep(func(digest.Digest) bool { return false }))
	waited := 0
	b, err := d.Blob(t.Context(), desc, killChunk, func() { waited++; c.kill() })
	must(t, err)
	if waited != 1 {
		t.Errorf("waiting was called %d times", waited)
	}
	if n := len(has(t, b, data)); n != killChunks {
		t.Errorf("%d chunks are there", n)
	}
	must(t, b.Remove())
}
