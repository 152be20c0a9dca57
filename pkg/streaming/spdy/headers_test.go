package spdy

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"hash/adler32"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// compressor is a client's: all blocks are one stream.
type compressor struct {
	buffer bytes.Buffer
	w      *zlib.Writer
}

func newCompressor(tb testing.TB, level int) *compressor {
	tb.Helper()
	c := &compressor{}
	var err error
	if c.w, err = zlib.NewWriterLevelDict(&c.buffer, level, dictionary()); err != nil {
		tb.Fatal(err)
	}
	return c
}

func (c *compressor) block(tb testing.TB, text []byte) []byte {
	tb.Helper()
	if _, err := c.w.Write(text); err != nil {
		tb.Fatal(err)
	}
	if err := c.w.Flush(); err != nil {
		tb.Fatal(err)
	}
	block := bytes.Clone(c.buffer.Bytes())
	c.buffer.Reset()
	return block
}

// text is a block of names and values before it is compressed.
func text(fields ...string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(fields)/2))
	for _, f := range fields {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	return b
}

func TestDictionary(t *testing.T) {
	// What every zlib stream of SPDY/3 begins with.
	if got := adler32.Checksum(dictionary()); got != 0xe3c6a7c2 {
		t.Errorf("checksum %#x", got)
	}
}

func TestHeaders(t *testing.T) {
	for _, level := range []int{zlib.NoCompression, zlib.BestSpeed, zlib.DefaultCompression, zlib.BestCompression} {
		c, d := newCompressor(t, level), decompressor{}
		for i := range 500 { // more than the window holds, and it refers to itself
			id := fmt.Sprint(i)
			got, err := d.headers(c.block(t, text("streamtype", "data", "port", "8080", "requestid", id, "accept-charset", strings.Repeat(id, 20)+"\x00utf-8")))
			want := http.Header{"Streamtype": {"data"}, "Port": {"8080"}, "Requestid": {id}, "Accept-Charset": {strings.Repeat(id, 20), "utf-8"}}
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("level %d, block %d: %v, %v", level, i, got, err)
			}
			if len(d.history) > window {
				t.Fatalf("%d bytes are kept", len(d.history))
			}
		}
	}
}

func TestNoHeaders(t *testing.T) {
	r, err := zlib.NewReaderDict(bytes.NewReader(slices.Concat(zlibStart(), noHeaders, noHeaders)), dictionary())
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 8)
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, make([]byte, 8)) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestBadHeaders(t *testing.T) {
	good := text("port", "80")
	for name, block := range map[string][]byte{
		"nothing":           {},
		"another stream":    {0x78, 0x9c, 3, 0, 0, 0, 0, 1, 0, 0, 0xff, 0xff},
		"not flushed":       bytes.TrimSuffix(newCompressor(t, 9).block(t, good), flushed),
		"garbage":           slices.Concat(zlibStart(), []byte{7, 7, 7}, flushed),
		"ended within":      slices.Concat(zlibStart(), last, noHeaders),
		"too large":         newCompressor(t, 9).block(t, text("port", strings.Repeat("8", maxHeaderBlock))),
		"too many":          newCompressor(t, 9).block(t, binary.BigEndian.AppendUint32(nil, maxHeaders+1)),
		"cut off":           newCompressor(t, 9).block(t, good[:len(good)-1]),
		"more":              newCompressor(t, 9).block(t, append(text("port", "80"), 0)),
		"twice":             newCompressor(t, 9).block(t, text("port", "80", "PORT", "81")),
		"no name":           newCompressor(t, 9).block(t, text("", "80")),
		"the largest field": newCompressor(t, 9).block(t, []byte{0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff}),
	} {
		if got, err := (&decompressor{}).headers(block); err == nil {
			t.Errorf("%s: understood as %v", name, got)
		}
	}
}

func FuzzHeaders(f *testing.F) {
	c := newCompressor(f, zlib.BestCompression)
	f.Add(c.block(f, text("port", "80")), c.block(f, text("port", "80", "streamtype", "data")))
	f.Add(slices.Concat(zlibStart(), noHeaders), noHeaders)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var d decompressor
		for _, block := range [][]byte{first, second} {
			before := bytes.Clone(block)
			headers, err := d.headers(block)
			if err == nil && len(headers) > maxHeaders {
				t.Errorf("%d headers", len(headers))
			}
			if !bytes.Equal(before, block) {
				t.Error("the input was changed")
			}
		}
		if len(d.history) > window {
			t.Errorf("%d bytes are kept", len(d.history))
		}
	})
}
