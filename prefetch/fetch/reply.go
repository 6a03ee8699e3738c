package fetch

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// contentRange is a Content-Range header of a 206 (RFC 9110, section 14.4): first and last byte, and the size of the
// whole, or -1 where the server does not tell.
type contentRange struct {
	first, last, total int64
}

// parseContentRange accepts "bytes first-last/total" and "bytes first-last/*", and nothing else.
func parseContentRange(s string) (contentRange, error) {
	fail := func() (contentRange, error) {
		return contentRange{}, fmt.Errorf("parse Content-Range %q: want \"bytes first-last/total\"", s)
	}
	unit, rest, ok := strings.Cut(s, " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return fail()
	}
	span, size, ok := strings.Cut(rest, "/")
	if !ok {
		return fail()
	}
	from, to, ok := strings.Cut(span, "-")
	if !ok {
		return fail()
	}
	first, err1 := parseDigits(from)
	last, err2 := parseDigits(to)
	total, err3 := int64(-1), error(nil)
	if size != "*" {
		total, err3 = parseDigits(size)
	}
	if err1 != nil || err2 != nil || err3 != nil || last < first || total >= 0 && last >= total {
		return fail()
	}
	return contentRange{first: first, last: last, total: total}, nil
}

// parseDigits parses what RFC 9110 calls 1*DIGIT; strconv alone would take signs.
func parseDigits(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}

// checkRange tells whether resp is exactly the chunk that was asked for. Anything that is a success but not exactly it
// is ErrRangeIgnored: such a server's ranges cannot be trusted.
func checkRange(resp *http.Response, c Chunk) error {
	switch {
	case resp.StatusCode == http.StatusOK:
		return fmt.Errorf("%w: 200 instead of 206", ErrRangeIgnored)
	case resp.StatusCode != http.StatusPartialContent:
		return fmt.Errorf("%w: status %d instead of 206", ErrRangeIgnored, resp.StatusCode)
	}
	if err := checkEncoding(resp); err != nil {
		return fmt.Errorf("%w: %w", ErrRangeIgnored, err)
	}
	got, err := parseContentRange(resp.Header.Get("Content-Range"))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRangeIgnored, err)
	}
	if got.total >= 0 && got.total != c.Blob.Size {
		return &SizeError{Want: c.Blob.Size, Got: got.total}
	}
	if got.first != c.Offset || got.last != c.Offset+c.Length-1 {
		return fmt.Errorf("%w: asked for bytes %d-%d, got %d-%d",
			ErrRangeIgnored, c.Offset, c.Offset+c.Length-1, got.first, got.last)
	}
	if n := resp.ContentLength; n >= 0 && n != c.Length {
		return fmt.Errorf("%w: asked for %d bytes, got %d", ErrRangeIgnored, c.Length, n)
	}
	return nil
}

// checkWhole tells whether resp is a whole blob of the size that the manifest says.
func checkWhole(resp *http.Response, size int64) error {
	if resp.StatusCode != http.StatusOK {
		return &StatusError{Code: resp.StatusCode, Text: "not a whole blob"}
	}
	if err := checkEncoding(resp); err != nil {
		return err
	}
	if n := resp.ContentLength; n >= 0 && n != size {
		return &SizeError{Want: size, Got: n}
	}
	return nil
}

// checkEncoding refuses a transformed body: we ask for identity, and a range of something else is not a range of the
// blob.
func checkEncoding(resp *http.Response) error {
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return fmt.Errorf("the reply is encoded as %q although identity was asked for", enc)
	}
	return nil
}

// retryAfter reads the Retry-After header (RFC 9110, section 10.2.3) of a 429 or 503: seconds or a date. It is zero
// where there is none.
func retryAfter(resp *http.Response, now time.Time) time.Duration {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	v := strings.TrimSpace(resp.Header.Get("Retry-After"))
	if n, err := parseDigits(v); err == nil {
		return time.Duration(min(n, int64(24*time.Hour/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}
