package note

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"
)

// session is what both ends of a TLS session derive.
func session(t testing.TB) (server, device *Keys) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	s := tls.Server(a, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, SessionTicketsDisabled: true})
	c := tls.Client(b, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}) // the keys are what is tested
	shaken := make(chan error, 1)
	go func() { shaken <- s.Handshake() }()
	if err := errors.Join(c.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	keys := func(conn *tls.Conn) *Keys {
		state := conn.ConnectionState()
		k, err := KeysOf(&state)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	return keys(s), keys(c)
}

func TestNotes(t *testing.T) {
	server, device := session(t)
	down, fromUp := server.Server()
	up, fromDown := device.Device()
	for i, ends := range []struct {
		*Sealer
		*Opener
	}{{down, fromDown}, {up, fromUp}} {
		for _, text := range []string{"", "one", "another"} {
			sealed := ends.Seal([]byte(text))
			if len(sealed) != len(text)+24 || text != "" && bytes.Contains(sealed, []byte(text)) {
				t.Errorf("%d: %q is sealed as %q", i, text, sealed)
			}
			if got, err := ends.Open(sealed); err != nil || string(got) != text {
				t.Errorf("%d: %q became %q, error %v", i, text, got, err)
			}
			if _, err := ends.Open(sealed); !errors.Is(err, ErrForged) {
				t.Errorf("%d: seen twice: %v", i, err)
			}
		}
	}
}

func TestForged(t *testing.T) {
	server, device := session(t)
	down, fromUp := server.Server()
	_, fromDown := device.Device()
	first, second := down.Seal([]byte("first")), down.Seal([]byte("second"))
	if _, err := fromUp.Open(second); !errors.Is(err, ErrForged) {
		t.Errorf("a note that was sent back: %v", err)
	}
	for i := range second {
		forged := bytes.Clone(second)
		forged[i] ^= 1
		if _, err := fromDown.Open(forged); !errors.Is(err, ErrForged) {
			t.Fatalf("byte %d was changed: %v", i, err)
		}
	}
	other, _ := session(t)
	stranger, _ := other.Server()
	for range 9 {
		if _, err := fromDown.Open(stranger.Seal([]byte("x"))); !errors.Is(err, ErrForged) {
			t.Errorf("of another session: %v", err)
		}
	}
	if _, err := fromDown.Open(second); err != nil {
		t.Errorf("forgeries have spoiled a genuine one: %v", err)
	}
	if _, err := fromDown.Open(first); !errors.Is(err, ErrForged) {
		t.Errorf("an earlier one: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	server, _ := session(f)
	seal, open := server.Server()
	f.Add(seal.Seal([]byte("of the wrong direction")))
	f.Add([]byte{})
	f.Add(make([]byte, counterSize+tagSize))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := open.Open(data); !errors.Is(err, ErrForged) {
			t.Errorf("%q was taken for genuine: %v", data, err)
		}
	})
}
