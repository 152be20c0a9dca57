// Package note seals the short messages by which the two ends of a parked link stay in touch while there is no
// connection between them. What carries them is the business of pkg/edge/link, what they say that of
// pkg/edge/gateway and pkg/edge/agent/uplink.
package note

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
)

// Feature is what a device announces that can be parked.
const Feature = "park"

const (
	// exporterLabel names the use that is made of the keys of a TLS session (RFC 8446, section 7.5).
	exporterLabel = "EXPORTER-aranya-note"
	keySize       = 32
	counterSize   = 8
	tagSize       = 16
)

// ErrForged says that a note is not from the other end, or was seen before.
var ErrForged = errors.New("the note is not a new one from the other end")

// Keys are what both ends of a TLS session derive from it. They are good for the notes of one link that is
// parked after that session.
type Keys struct{ down, up [keySize]byte }

// KeysOf derives the keys. Only TLS 1.3 will do.
func KeysOf(state *tls.ConnectionState) (*Keys, error) {
	material, err := state.ExportKeyingMaterial(exporterLabel, nil, 2*keySize)
	if err != nil {
		return nil, fmt.Errorf("deriving keys from the TLS session: %w", err)
	}
	k := &Keys{}
	copy(k.down[:], material)
	copy(k.up[:], material[keySize:])
	return k, nil
}

// Server returns the ends that the server needs.
func (k *Keys) Server() (*Sealer, *Opener) { return &Sealer{key: k.down}, &Opener{key: k.up} }

// Device returns the ends that the device needs.
func (k *Keys) Device() (*Sealer, *Opener) { return &Sealer{key: k.up}, &Opener{key: k.down} }

// Sealer makes notes. It is for one goroutine at a time.
type Sealer struct {
	key     [keySize]byte
	counter uint64 // of the last note
}

// Seal returns a note that says what the message says, 24 bytes larger than that.
func (s *Sealer) Seal(message []byte) []byte {
	s.counter++
	sealed := binary.BigEndian.AppendUint64(make([]byte, 0, counterSize+len(message)+tagSize), s.counter)
	return aead(&s.key).Seal(sealed, nonce(s.counter), message, nil)
}

// Opener reads notes. It is for one goroutine at a time.
type Opener struct {
	key     [keySize]byte
	counter uint64 // of the last note
}

// Open returns what a note says. The error is ErrForged for one that the other end did not seal, and for one that
// is not later than all before.
func (o *Opener) Open(sealed []byte) ([]byte, error) {
	if len(sealed) < counterSize+tagSize {
		return nil, ErrForged
	}
	counter := binary.BigEndian.Uint64(sealed)
	if counter <= o.counter {
		return nil, ErrForged
	}
	message, err := aead(&o.key).Open(nil, nonce(counter), sealed[counterSize:], nil)
	if err != nil {
		return nil, ErrForged
	}
	o.counter = counter
	return message, nil
}

// aead is made when it is used: it is several times as large as its key, and thousands of links are parked.
func aead(key *[keySize]byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has the right size
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has blocks of the right size
	}
	return gcm
}

// nonce is never used twice with one key: each direction has a key and a counter of its own.
func nonce(counter uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 4, 12), counter)
}
