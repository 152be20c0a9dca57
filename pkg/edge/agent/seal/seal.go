// Package seal encrypts what the agent keeps on the device's disk, with a key that only the device has.
// It knows bytes and the key; which records there are, and what becomes of one that cannot be opened, is
// for the packages that keep them.
//
// What it protects: backups, copies and disks that end up elsewhere without the device's secret, and
// records that were altered or exchanged. What it cannot: whoever may read the secret, which is root
// on the device as long as the secret does not come from a TPM.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

const (
	// magic begins what is sealed in this format.
	magic    = "arhat/2\n"
	idSize   = 8
	saltSize = 16
	tagSize  = 16
	// Overhead is how much longer sealed data is, in bytes.
	Overhead = len(magic) + idSize + saltSize + tagSize

	// MinSecret is how many bytes a device's secret has at least.
	MinSecret = 32
)

// Errors of Open.
var (
	// ErrNotSealed says that the data does not begin as sealed data does.
	ErrNotSealed = errors.New("it is not sealed")
	// ErrOtherKey says that the data was sealed with another device's secret, or a former one.
	ErrOtherKey = errors.New("it was sealed with another secret than this device's")
	// ErrAltered says that the data is damaged, or is another record than the one asked for.
	ErrAltered = errors.New("it is damaged, or was sealed as another record")
)

// Key seals and opens. It may be used concurrently.
type Key struct {
	root []byte
	id   [idSize]byte
}

// New derives a key from a device's secret.
func New(secret []byte) (*Key, error) {
	if len(secret) < MinSecret {
		return nil, fmt.Errorf("the secret has %d bytes, at least %d are needed", len(secret), MinSecret)
	}
	root, err := hkdf.Extract(sha256.New, secret, []byte("arhat.dev/arhat records"))
	if err != nil {
		return nil, err
	}
	id, err := hkdf.Expand(sha256.New, root, "id", idSize)
	if err != nil {
		return nil, err
	}
	return &Key{root: root, id: [idSize]byte(id)}, nil
}

// Seal encrypts a record. It can be opened under the same name only.
func (k *Key) Seal(name string, plain []byte) ([]byte, error) {
	sealed := make([]byte, 0, Overhead+len(plain))
	sealed = append(sealed, magic...)
	sealed = append(sealed, k.id[:]...)
	var salt [saltSize]byte
	_, _ = rand.Read(salt[:]) // never fails
	sealed = append(sealed, salt[:]...)
	aead, err := k.aead(salt[:])
	if err != nil {
		return nil, err
	}
	return aead.Seal(sealed, make([]byte, aead.NonceSize()), plain, additional(sealed, name)), nil
}

// Open decrypts a record that was sealed under this name.
func (k *Key) Open(name string, sealed []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(sealed, []byte(magic))
	if !ok {
		return nil, ErrNotSealed
	}
	if len(rest) < idSize+saltSize+tagSize {
		return nil, ErrAltered
	}
	if !bytes.Equal(rest[:idSize], k.id[:]) {
		return nil, ErrOtherKey
	}
	aead, err := k.aead(rest[idSize : idSize+saltSize])
	if err != nil {
		return nil, err
	}
	head := len(magic) + idSize + saltSize
	plain, err := aead.Open(nil, make([]byte, aead.NonceSize()), sealed[head:], additional(sealed[:head], name))
	if err != nil {
		return nil, ErrAltered
	}
	return plain, nil
}

// aead is that of one record: each has a key of its own, from its salt, so that the constant nonce is used
// once with any key, however many records a device writes in its life.
func (k *Key) aead(salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Expand(sha256.New, k.root, "record"+string(salt), 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// additional is what is authenticated beside the record itself.
func additional(head []byte, name string) []byte {
	return append(bytes.Clone(head), name...)
}
