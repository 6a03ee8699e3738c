package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
)

// accessLog counts what the registry sent by the lines of its log. It is used by one goroutine at a time.
type accessLog struct {
	path string
	url  string // of the registry
	from int64
	n    atomic.Int64
}

// mark starts counting here.
func (a *accessLog) mark() error {
	info, err := os.Stat(a.path)
	if err != nil {
		return fmt.Errorf("read the registry's log: %w", err)
	}
	a.from = info.Size()
	return nil
}

// since is how many bytes of bodies the registry has sent, and in how many answers, since the mark. It asks the registry
// for something and waits until that is in the log, for lines come after the answers.
func (a *accessLog) since(ctx context.Context) (sent, answers int64, err error) {
	marker := fmt.Sprintf("/v2/?mark=%d", a.n.Add(1))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+marker, nil)
	if err != nil {
		return 0, 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, fmt.Errorf("mark the registry's log: %w", err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, 0, errors.Join(err, resp.Body.Close())
	}
	if err := resp.Body.Close(); err != nil {
		return 0, 0, err
	}
	var text []byte
	var readErr error
	err = await(ctx, settleTime, func() bool {
		text, readErr = a.read()
		return readErr != nil || bytes.Contains(text, []byte(marker))
	})
	if err := errors.Join(err, readErr); err != nil {
		return 0, 0, fmt.Errorf("read the registry's log: %w", err)
	}
	sent, answers = sumAnswers(text, marker)
	return sent, answers, nil
}

func (a *accessLog) read() ([]byte, error) {
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(a.from, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// sumAnswers adds up the lines that the registry (distribution) writes when an answer is complete, but for the marker's.
func sumAnswers(text []byte, marker string) (sent, answers int64) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Bytes()
		if !bytes.Contains(line, []byte("response completed")) || bytes.Contains(line, []byte(marker)) {
			continue
		}
		_, rest, ok := bytes.Cut(line, []byte("http.response.written="))
		if !ok {
			continue
		}
		number, _, _ := bytes.Cut(rest, []byte(" "))
		n, err := strconv.ParseInt(string(number), 10, 64)
		if err != nil {
			continue
		}
		sent += n
		answers++
	}
	return sent, answers
}
