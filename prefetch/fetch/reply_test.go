package fetch

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParseContentRange(t *testing.T) {
	for in, want := range map[string]contentRange{
		"bytes 0-99/100":    {0, 99, 100},
		"bytes 10-19/100":   {10, 19, 100},
		"bytes 0-0/*":       {0, 0, -1},
		"Bytes 1-2/3":       {1, 2, 3},
		"bytes 007-08/0100": {7, 8, 100},
	} {
		if got, err := parseContentRange(in); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "bytes", "bytes ", "bytes */100", "bytes 0-99", "bytes 0-99/", "bytes -1-99/100", "bytes +1-99/100",
		"bytes 5-4/100", "bytes 0-100/100", "items 0-99/100", "bytes 0-99/100 ", "bytes  0-99/100", "bytes=0-99/100",
		"bytes 0-99999999999999999999/*", "bytes 0-99/100, bytes 0-9/100", "bytes 0x0-0x9/100", "bytes 0-99/-100",
	} {
		if got, err := parseContentRange(in); err == nil {
			t.Errorf("%q was taken for %+v", in, got)
		}
	}
}

func TestCheckRange(t *testing.T) {
	c := Chunk{Blob: ocispec.Descriptor{Size: 100}, Offset: 10, Length: 20}
	var size *SizeError
	for name, tc := range map[string]struct {
		change  func(*http.Response)
		ok      bool
		ignored bool
	}{
		"exactly the range":           {change: func(*http.Response) {}, ok: true},
		"no length":                   {change: func(r *http.Response) { r.ContentLength = -1 }, ok: true},
		"no total":                    {change: func(r *http.Response) { r.Header.Set("Content-Range", "bytes 10-29/*") }, ok: true},
		"identity said":               {change: func(r *http.Response) { r.Header.Set("Content-Encoding", "identity") }, ok: true},
		"200":                         {change: func(r *http.Response) { r.StatusCode = http.StatusOK }, ignored: true},
		"204":                         {change: func(r *http.Response) { r.StatusCode = http.StatusNoContent }, ignored: true},
		"no Content-Range":            {change: func(r *http.Response) { r.Header.Del("Content-Range") }, ignored: true},
		"begins elsewhere":            {change: func(r *http.Response) { r.Header.Set("Content-Range", "bytes 0-19/100") }, ignored: true},
		"ends elsewhere":              {change: func(r *http.Response) { r.Header.Set("Content-Range", "bytes 10-28/100") }, ignored: true},
		"another length":              {change: func(r *http.Response) { r.ContentLength = 21 }, ignored: true},
		"encoded":                     {change: func(r *http.Response) { r.Header.Set("Content-Encoding", "gzip") }, ignored: true},
		"another total":               {change: func(r *http.Response) { r.Header.Set("Content-Range", "bytes 10-29/99") }},
		"another total and elsewhere": {change: func(r *http.Response) { r.Header.Set("Content-Range", "bytes 0-1/99") }},
	} {
		resp := &http.Response{
			StatusCode: http.StatusPartialContent, ContentLength: 20,
			Header: http.Header{"Content-Range": {"bytes 10-29/100"}},
		}
		tc.change(resp)
		err := checkRange(resp, c)
		switch {
		case tc.ok && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.ignored && !errors.Is(err, ErrRangeIgnored):
			t.Errorf("%s: %v, want ErrRangeIgnored", name, err)
		case !tc.ok && !tc.ignored && !errors.As(err, &size):
			t.Errorf("%s: %v, want a SizeError", name, err)
		}
	}
}

// FuzzRangeReply checks that only a reply that is exactly the chunk is taken for it, and that such a one always is.
func FuzzRangeReply(f *testing.F) {
	f.Add(206, "bytes 10-29/100", int64(20), "", int64(10), int64(20), int64(100))
	f.Add(206, "bytes 10-29/*", int64(-1), "identity", int64(10), int64(20), int64(100))
	f.Add(200, "", int64(100), "", int64(0), int64(20), int64(100))
	f.Add(206, "bytes 0-9223372036854775807/*", int64(0), "", int64(0), int64(1), int64(2))
	f.Add(206, "bytes 10-29/100", int64(20), "gzip", int64(10), int64(20), int64(100))
	f.Add(416, "bytes */100", int64(0), "", int64(100), int64(1), int64(100))
	f.Fuzz(func(t *testing.T, status int, header string, length int64, encoding string, offset, want, size int64) {
		if offset < 0 || want < 1 || size < 1 || offset > size-want {
			return // no chunk of that blob
		}
		c := Chunk{Blob: ocispec.Descriptor{Size: size}, Offset: offset, Length: want}
		resp := &http.Response{
			StatusCode: status, ContentLength: length,
			Header: http.Header{"Content-Range": {header}, "Content-Encoding": {encoding}},
		}
		exact := header == fmt.Sprintf("bytes %d-%d/%d", offset, offset+want-1, size) && status == http.StatusPartialContent &&
			(length == want || length == -1) && encoding == ""
		err := checkRange(resp, c)
		if exact && err != nil {
			t.Fatalf("an exact reply was refused: %v", err)
		}
		if err != nil {
			return
		}
		got, perr := parseContentRange(header)
		if perr != nil || status != http.StatusPartialContent || got.first != offset || got.last-got.first+1 != want ||
			got.total != -1 && got.total != size || length >= 0 && length != want {
			t.Fatalf("%d %q with %d bytes was taken for %s", status, header, length, c)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"7": 7 * time.Second, " 7 ": 7 * time.Second, "0": 0, "": 0, "-7": 0, "soon": 0, "1.5": 0,
		"99999999":                      24 * time.Hour,
		"Sat, 21 Nov 2026 12:01:00 GMT": time.Minute,
		"Sat, 21 Nov 2026 11:59:00 GMT": 0,
	} {
		resp := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {in}}}
		if got := retryAfter(resp, now); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
		resp.StatusCode = http.StatusNotFound
		if got := retryAfter(resp, now); got != 0 {
			t.Errorf("%q of a 404: %s", in, got)
		}
	}
}
