package spdy

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"io"
	"net/http"
	"strings"
	"sync"
)

const (
	// maxHeaderBlock is the most that the headers of a stream may take, in bytes, compressed or not.
	maxHeaderBlock = 16 << 10
	// maxHeaders is how many headers a stream may have.
	maxHeaders = 64
	// window is how far back deflate refers.
	window = 32 << 10
)

// dictionary is what both ends know before the first header: the one of SPDY/3 (2.6.10.1).
var dictionary = sync.OnceValue(func() []byte {
	var d []byte
	for word := range strings.FieldsSeq(`options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges
age allow authorization cache-control connection content-base content-encoding content-language content-length content-location content-md5
content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since
last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer
transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie
keep-alive origin`) {
		word = strings.ReplaceAll(word, "_", " ")
		d = append(binary.BigEndian.AppendUint32(d, uint32(len(word))), word...)
	}
	return append(d, "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"+
		"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found"+
		"500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00"+
		" Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,"+
		"text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."...)
})

// zlibStart begins a zlib stream that uses the dictionary.
var zlibStart = sync.OnceValue(func() []byte {
	return binary.BigEndian.AppendUint32([]byte{0x78, 0xbb}, adler32.Checksum(dictionary()))
})

// noHeaders is a compressed block without headers: a stored block with the number 0, and an empty one,
// which has a decompressor give out what it has.
var noHeaders = []byte{0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}

var (
	// flushed is how a compressor ends what can be decompressed so far.
	flushed = []byte{0, 0, 0xff, 0xff}
	// last is an empty stored block that ends a deflate stream.
	last = []byte{1, 0, 0, 0xff, 0xff}
)

// inflaters are at most as many as there are headers being read at the same time. A connection keeps
// only the text that its next headers may refer to.
var inflaters = sync.Pool{New: func() any { return flate.NewReader(bytes.NewReader(nil)) }}

// decompressor reads the headers of a connection, of which all blocks are one zlib stream.
type decompressor struct {
	begun bool
	// history is what the headers so far were, without the dictionary before them.
	history []byte
}

// headers decompresses and reads the next block.
func (d *decompressor) headers(block []byte) (http.Header, error) {
	if !d.begun {
		start := zlibStart()
		// Compression levels differ in two bits of the second byte, and in those that make it a multiple of 31.
		if len(block) < len(start) || block[0] != start[0] || block[1]&0x20 == 0 || binary.BigEndian.Uint16(block)%31 != 0 ||
			!bytes.Equal(block[2:len(start)], start[2:]) {
			return nil, errors.New("the headers do not begin with the dictionary of SPDY/3")
		}
		d.begun, block = true, block[len(start):]
	}
	text, err := d.inflate(block)
	if err != nil {
		return nil, fmt.Errorf("decompress headers: %w", err)
	}
	d.history = tail(append(d.history, text...))
	return parse(text)
}

// tail is as much of the end as can be referred to.
func tail(text []byte) []byte {
	if len(text) > window {
		return bytes.Clone(text[len(text)-window:])
	}
	return text
}

// inflate decompresses a block that the other end has flushed, as all do.
func (d *decompressor) inflate(block []byte) ([]byte, error) {
	if !bytes.HasSuffix(block, flushed) {
		return nil, errors.New("a block was not flushed")
	}
	input := bytes.NewReader(append(block[:len(block):len(block)], last...))
	inflater := inflaters.Get().(io.ReadCloser)
	defer inflaters.Put(inflater)
	dict := dictionary()
	if err := inflater.(flate.Resetter).Reset(input, append(dict[:len(dict):len(dict)], d.history...)); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(inflater, maxHeaderBlock+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxHeaderBlock:
		return nil, fmt.Errorf("more than %d bytes", maxHeaderBlock)
	case input.Len() > 0:
		return nil, errors.New("the stream ended within a block")
	}
	return text, nil
}

// parse reads a decompressed block.
func parse(text []byte) (http.Header, error) {
	number := func() (n uint32, ok bool) {
		if len(text) < 4 {
			return 0, false
		}
		n, text = binary.BigEndian.Uint32(text), text[4:]
		return n, true
	}
	field := func() (string, bool) {
		n, ok := number()
		if !ok || uint64(n) > uint64(len(text)) {
			return "", false
		}
		s := string(text[:n])
		text = text[n:]
		return s, true
	}
	n, ok := number()
	if !ok || n > maxHeaders {
		return nil, fmt.Errorf("not the number of headers, or more than %d", maxHeaders)
	}
	headers := make(http.Header, n)
	for range n {
		name, ok1 := field()
		value, ok2 := field()
		if !ok1 || !ok2 || name == "" {
			return nil, errors.New("a header is cut off or has no name")
		}
		if headers.Values(name) != nil {
			return nil, fmt.Errorf("header %q comes twice", name)
		}
		for v := range strings.SplitSeq(value, "\x00") {
			headers.Add(name, v)
		}
	}
	if len(text) > 0 {
		return nil, errors.New("more than the headers")
	}
	return headers, nil
}
