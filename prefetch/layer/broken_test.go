package layer_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch/layer"
)

// stored is a zstd frame that says it needs a window of 2^log bytes, with nothing compressed in it (RFC 8878, 3.1.1).
func stored(data []byte, log byte) []byte {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3}
	for chunk := range slices.Chunk(data, 64<<10) {
		frame = append(binary.LittleEndian.AppendUint32(frame, uint32(len(chunk)<<3))[:len(frame)+3], chunk...)
	}
	return append(frame, 1, 0, 0) // the last block, empty
}

func (b blob) as(media string) blob        { b.media = media; return b }
func (b blob) with(d []byte) blob          { b.data = d; return b }
func (b blob) cut(n int) blob              { b.data = b.data[:len(b.data)-n]; return b }
func (b blob) plus(s string) blob          { b.data = append(bytes.Clone(b.data), s...); return b }
func (b blob) withID(d digest.Digest) blob { b.diffID = d; return b }

func TestHowBlobsAreRead(t *testing.T) {
	needsOverlay(t)
	tar := tarOf(t, file("f", strings.Repeat("weights", 100_000)), dir("d", 0o700))
	id := digest.FromBytes(tar)
	gz, zs := gzipped(t, tar), zstded(t, tar)
	broken, diffID, fine := errors.New("broken"), layer.ErrDiffID, error(nil)
	for name, test := range map[string]struct {
		blob blob
		want error
	}{
		"tar":                       {raw(tar), fine},
		"tar with diff ID":          {raw(tar).withID(id), fine},
		"gzip":                      {gz, fine},
		"zstd":                      {zs, fine},
		"empty":                     {raw(nil), fine},
		"empty gzip":                {raw(nil).as(gz.media).withID(digest.FromBytes(nil)), fine},
		"tar called gzip":           {gz.with(tar), fine},
		"zstd called gzip":          {zs.as(gz.media), fine},
		"gzip called zstd":          {gz.as(zs.media), fine},
		"gzip called tar":           {gz.as(ocispec.MediaTypeImageLayer), broken},
		"gzip in docker's tar":      {gz.as(images.MediaTypeDockerSchema2Layer), fine},
		"zstd in docker's tar":      {zs.as(images.MediaTypeDockerSchema2Layer), fine},
		"docker's gzip":             {gz.as(images.MediaTypeDockerSchema2LayerGzip), fine},
		"foreign":                   {gz.as(images.MediaTypeDockerSchema2LayerForeignGzip), fine},
		"encrypted":                 {gz.as(images.MediaTypeImageLayerEncrypted), broken},
		"not a layer":               {gz.as("application/vnd.cncf.model.weight.v1.tar"), broken},
		"two gzip members":          {gz.with(append(bytes.Clone(gz.data), gzipped(t, []byte("tail")).data...)).withID(digest.FromString(string(tar) + "tail")), fine},
		"two zstd frames":           {zs.with(append(bytes.Clone(zs.data), zstded(t, []byte("tail")).data...)).withID(digest.FromString(string(tar) + "tail")), fine},
		"zstd after a skippable":    {zs.with(append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00skip"), zs.data...)), fine},
		"tar with a tail":           {raw(tar).plus("tail"), fine},
		"tar without its end":       {raw(tar).cut(1024), fine},
		"gzip with garbage":         {gz.plus("garbage"), broken},
		"gzip with zeros":           {gz.plus(strings.Repeat("\x00", 512)), broken},
		"zstd with garbage":         {zs.plus("garbage"), broken},
		"gzip cut":                  {gz.cut(100), broken},
		"gzip without its checksum": {gz.cut(8), broken},
		"zstd cut":                  {zs.cut(1), broken},
		"gzip head only":            {gz.cut(len(gz.data) - 5), broken},
		"tar cut":                   {raw(tar).cut(1024 + 100), broken},
		"tar cut in a file":         {raw(tar[:2000]), broken},
		"gzip with a flipped bit":   {gz.with(flip(gz.data, len(gz.data)/2)), broken},
		"gzip with a wrong sum":     {gz.with(flip(gz.data, len(gz.data)-6)), broken},
		"zstd with a flipped bit":   {zs.with(flip(zs.data, len(zs.data)-2)), broken},
		"tar with a wrong sum":      {raw(flip(tar, 3)), broken},
		"other diff ID":             {gz.withID(digest.FromString("other")), diffID},
		"other diff ID of a tar":    {raw(tar).withID(digest.FromString("other")), diffID},
		"window of 128 MiB":         {zs.with(stored(tar, 27)), fine},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := compare(t, []blob{test.blob})
			var format *layer.FormatError
			isFormat := errors.As(err, &format)
			switch {
			case isFormat != errors.Is(test.want, broken):
				t.Errorf("is it a FormatError? %t: %v", isFormat, err)
			case !isFormat && !errors.Is(err, test.want):
				t.Errorf("error %v, want %v", err, test.want)
			case err != nil && !strings.Contains(err.Error(), "rebuild the image"):
				t.Errorf("the error does not say what to do: %v", err)
			}
		})
	}
}

func flip(data []byte, at int) []byte {
	data = bytes.Clone(data)
	data[at] ^= 1
	return data
}

// What containerd would not see as wrong, or would take.
func TestRefusedBeyondContainerd(t *testing.T) {
	tar := tarOf(t, file("f", "x"))
	zs := zstded(t, tar)
	for name, test := range map[string]struct {
		blob   blob
		window int64
		want   error
	}{
		"compressed, diff ID of the blob": {gzipped(t, tar).withID(""), 0, layer.ErrDiffID},
		"window above the allowed one":    {zs.with(stored(tar, 24)), layer.CommonWindow, layer.ErrWindow},
		"window above MaxWindow":          {zs.with(stored(tar, 28)), 0, new(layer.FormatError)},
		"one segment above MaxWindow":     {zs.with(oneSegment(layer.MaxWindow + 1)), 0, new(layer.FormatError)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tree")
			spec := layer.Spec{MediaType: test.blob.media, DiffID: test.blob.diffID, Base: true, Dir: dir, Window: test.window}
			_, err := layer.Apply(t.Context(), spec, bytes.NewReader(test.blob.data))
			if want := new(*layer.FormatError); errors.As(test.want, want) {
				if !errors.As(err, want) {
					t.Errorf("not a FormatError: %v", err)
				}
			} else if !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if _, err := os.Lstat(dir); !os.IsNotExist(err) {
				t.Errorf("the directory is left: %v", err)
			}
		})
	}
}

// oneSegment is the head of a zstd frame whose content has this size and is its own window.
func oneSegment(size uint64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}, size)
}
