package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
)

// plainMagic begins the records that agents wrote before there was sealing. They are still read.
const plainMagic = "arhat/1\n"

// decodePlain returns the payload of such a record: a checksum and the payload follow the beginning.
func decodePlain(data []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(data, []byte(plainMagic))
	if !ok {
		return nil, errors.New("it does not begin as a record does")
	}
	if len(rest) < sha256.Size {
		return nil, errors.New("it is cut off")
	}
	payload := rest[sha256.Size:]
	if sum := sha256.Sum256(payload); !bytes.Equal(sum[:], rest[:sha256.Size]) {
		return nil, errors.New("its checksum is wrong")
	}
	return payload, nil
}
