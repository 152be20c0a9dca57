package mqtt

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"

	"arhat.dev/aranya/pkg/edge/link"
)

func TestFrames(t *testing.T) {
	id := connID{device: 1 << 60, server: 7}
	for _, f := range []frame{
		{kind: frameOpen, id: connID{device: 1}, creditBytes: windowBytes, creditFrames: windowFrames, maxPayload: 256},
		{kind: frameAccept, id: id, maxPayload: 1 << 40},
		{kind: frameData, id: id, seq: 1 << 62, creditBytes: 1<<64 - 1, creditFrames: 3, data: []byte("x")},
		{kind: frameCredit, id: id, seq: 1, creditBytes: 5, creditFrames: 6},
		{kind: frameClose, id: id, seq: 9},
		*resetFrame(id, "why"),
		{kind: frameGone, id: id},
		{kind: frameHello, id: id, creditFrames: 3000},
		{kind: frameWait, id: connID{device: 1}},
		{kind: frameOpen, id: connID{device: 2}, maxPayload: 256, data: id.bytes()},
		{kind: frameNote, id: id, data: []byte("sealed")},
		{kind: frameNote, id: id},
	} {
		b := f.appendTo(nil)
		if len(b) > headerRoom+len(f.data) {
			t.Errorf("%s: the header has %d bytes", f.kind, len(b)-len(f.data))
		}
		got, err := decodeFrame(b)
		if len(got.data) == 0 {
			got.data = nil
		}
		if err != nil || !reflect.DeepEqual(got, f) {
			t.Errorf("%+v became %+v, error %v", f, got, err)
		}
		for cut := range len(b) {
			// A frame cut within its text or data is one with less of it, or without. What is inside notices.
			if _, err := decodeFrame(b[:cut]); err == nil && (cut < len(b)-len(f.data) || f.kind == frameData && cut == len(b)-len(f.data)) {
				t.Errorf("%s cut to %d of %d bytes was accepted", f.kind, cut, len(b))
			}
		}
	}
}

func TestFramesRefused(t *testing.T) {
	id := connID{device: 1, server: 1}
	for name, f := range map[string]frame{
		"data without a number":    {kind: frameData, id: id, data: []byte("x")},
		"data without data":        {kind: frameData, id: id, seq: 1},
		"credit with data":         {kind: frameCredit, id: id, seq: 1, data: []byte("x")},
		"open with a server":       {kind: frameOpen, id: id, maxPayload: 256},
		"open without a device":    {kind: frameOpen, maxPayload: 256},
		"open of half an ID":       {kind: frameOpen, id: connID{device: 1}, maxPayload: 256, data: []byte("12345678")},
		"note without a server":    {kind: frameNote, id: connID{device: 1}},
		"numbered note":            {kind: frameNote, id: id, seq: 1},
		"large note":               {kind: frameNote, id: id, data: make([]byte, link.MaxNote+1)},
		"open of tiny payloads":    {kind: frameOpen, id: connID{device: 1}, maxPayload: minPayload - 1},
		"accept without a server":  {kind: frameAccept, id: connID{device: 1}, maxPayload: 256},
		"wait without a device":    {kind: frameWait},
		"wait with a server":       {kind: frameWait, id: id},
		"reset with a long reason": {kind: frameReset, id: id, data: bytes.Repeat([]byte("x"), maxReason+1)},
		"unknown type":             {kind: 99, id: id},
		"type 0":                   {id: id},
	} {
		if _, err := decodeFrame(f.appendTo(nil)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	b := (&frame{kind: frameHello}).appendTo(nil)
	b[0]++
	if _, err := decodeFrame(b); err == nil {
		t.Error("another version was accepted")
	}
}

func TestReasons(t *testing.T) {
	f := resetFrame(connID{}, strings.Repeat("ü", shortReason))
	if len(f.data) > shortReason || strings.Contains(f.reason(), "?") {
		t.Errorf("%d bytes: %s", len(f.data), f.reason())
	}
	// Older devices understand a refusal, too, and others all of it.
	for size, want := range map[int][]int{
		1: {1}, shortReason: {shortReason}, shortReason + 1: {shortReason + 1, shortReason}, maxReason + 1: {maxReason, shortReason},
	} {
		var got []int
		for _, f := range refusal(7, strings.Repeat("x", size)) {
			read, err := decodeFrame(f.appendTo(nil))
			if err != nil || read.id.device != 7 {
				t.Errorf("a reason of %d bytes: %+v, %v", size, read, err)
			}
			got = append(got, len(read.data))
		}
		if !slices.Equal(got, want) {
			t.Errorf("a reason of %d bytes is told in frames of %v, expected %v", size, got, want)
		}
	}
	if got := (&frame{data: []byte("a\x1b[31m\nb\xff")}).reason(); got != "a?[31m?b?" {
		t.Errorf("%q", got)
	}
}

func FuzzDecodeFrame(f *testing.F) {
	f.Add((&frame{kind: frameOpen, id: connID{device: 1}, maxPayload: 65536}).appendTo(nil))
	f.Add((&frame{kind: frameNote, id: connID{device: 1, server: 2}, data: []byte("sealed")}).appendTo(nil))
	f.Add((&frame{kind: frameData, id: connID{1, 2}, seq: 300, creditBytes: 70000, creditFrames: 4, data: []byte("abc")}).appendTo(nil))
	f.Add(resetFrame(connID{1, 2}, "why").appendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		first, err := decodeFrame(b)
		if err != nil {
			return
		}
		again, err := decodeFrame(first.appendTo(nil))
		if err != nil || again.kind != first.kind || again.id != first.id || again.seq != first.seq ||
			again.creditBytes != first.creditBytes || again.creditFrames != first.creditFrames ||
			again.maxPayload != first.maxPayload || !bytes.Equal(again.data, first.data) {
			t.Errorf("%x is %+v, then %+v, error %v", b, first, again, err)
		}
		_ = first.reason()
	})
}
