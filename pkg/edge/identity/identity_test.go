package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

func TestURI(t *testing.T) {
	d := Device{Namespace: "edge", Name: "device-1.example", UID: "6f0c3c1e-0000-4000-8000-000000000001"}
	text := d.URI().String()
	if text != "urn:arhat.dev:edgedevice:edge:device-1.example:6f0c3c1e-0000-4000-8000-000000000001" {
		t.Errorf("URI is %s", text)
	}
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parseURI(u); err != nil || got != d {
		t.Errorf("parsed %v, error %v", got, err)
	}
}

func TestParseURIRefuses(t *testing.T) {
	for _, text := range []string{
		"", "https://arhat.dev/edgedevice", "urn:arhat.dev:edgedevice:", "urn:arhat.dev:edgedevice:a:b",
		"urn:arhat.dev:edgedevice:a:b:c:d", "urn:arhat.dev:edgedevice::b:c", "urn:arhat.dev:edgedevice:a::c",
		"urn:arhat.dev:edgedevice:a:b:", "urn:arhat.dev:other:a:b:c", "urn:arhat.dev:edgedevice:A:b:c",
		"urn:arhat.dev:edgedevice:a:b_:c", "urn:arhat.dev:edgedevice:a:b:c/d", "urn:arhat.dev:edgedevice:a/x:b:c",
		"urn:arhat.dev:edgedevice:a:b:c?x=1", "urn:arhat.dev:edgedevice:a:b:c#x", "urn:arhat.dev:edgedevice:a:b:c%41",
		"urn:arhat.dev:edgedevice:a:../b:c", "urn:arhat.dev:edgedevice:a:b:" + strings.Repeat("c", 65),
		"urn:arhat.dev:edgedevice:a:" + strings.Repeat("b", 254) + ":c",
	} {
		u, err := url.Parse(text)
		if err != nil {
			continue
		}
		if d, err := parseURI(u); err == nil {
			t.Errorf("%q was taken for %v", text, d)
		}
	}
	if _, err := parseURI(nil); err == nil {
		t.Error("no URI was taken for a device")
	}
}

func TestFromCertificate(t *testing.T) {
	one := Device{Namespace: "a", Name: "b", UID: "c"}.URI()
	for n, uris := range [][]*url.URL{nil, {one}, {one, one}} {
		_, err := FromCertificate(&x509.Certificate{URIs: uris})
		if (err == nil) != (n == 1) {
			t.Errorf("%d URIs: %v", n, err)
		}
	}
}

// randomToken is a token without the name of a device.
func randomToken() (token Token, data [TokenBytes]byte) {
	_, _ = rand.Read(data[:])
	return NewToken(data, sha256.Sum256([]byte("ca"))), data
}

func TestToken(t *testing.T) {
	a, data := randomToken()
	if b, err := a.Bytes(); err != nil || b != data {
		t.Errorf("of %x became %x, error %v", data, b, err)
	}
	got, err := ParseToken(" " + a.Text() + "\n")
	if err != nil || got != a {
		t.Errorf("parsed %v, error %v", got, err)
	}
	for _, s := range []string{fmt.Sprint(a), fmt.Sprintf("%v %s %+v", a, &a, a), a.String()} {
		if strings.Contains(s, a.Secret) {
			t.Errorf("%q gives the secret away", s)
		}
	}
	named := a
	named.Namespace, named.Name = "edge", "device-1.example.org"
	if got, err := ParseToken(named.Text()); err != nil || got != named {
		t.Errorf("parsed %+v, error %v", got, err)
	}
}

// An agent of before tokens could prove themselves has read this one, and must read those of today: the sizes stay.
func TestTokenKeepsItsForm(t *testing.T) {
	var data [TokenBytes]byte
	for i := range data {
		data[i] = byte(i)
	}
	token := NewToken(data, sha256.Sum256([]byte("ca")))
	token.Namespace, token.Name = "edge", "device-1"
	const want = "aaaqeaye.audaocajbifqydiob4ibceqtcqkrmfyy.6959097001d10501ac7d54c0bdb8db61420f658f2922cc26e46d536119a31126.edge.device-1"
	if got := token.Text(); got != want {
		t.Errorf("the text is %s, want %s", got, want)
	}
}

func TestParseTokenRefuses(t *testing.T) {
	a, _ := randomToken()
	parts := strings.Split(a.Text(), ".")
	for name, text := range map[string]string{
		"empty": "", "two parts": parts[0] + "." + parts[1], "four parts": a.Text() + ".x",
		"cut": a.Text()[:len(a.Text())-1], "upper case": strings.ToUpper(a.Text()), "no id": "." + parts[1] + "." + parts[2],
		"short secret": parts[0] + "." + parts[1][1:] + "." + parts[2], "bad digit": parts[0] + "." + parts[1] + ".zz" + parts[2][2:],
		"bad namespace": a.Text() + ".A.b", "bad name": a.Text() + ".a.b..", "no name": a.Text() + ".a.",
		"bad secret": parts[0] + ".0" + parts[1][1:] + "." + parts[2],
	} {
		_, err := ParseToken(text)
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), parts[1]) {
			t.Errorf("%s: the error gives the secret away", name)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	seed, _ := randomToken()
	f.Add(seed.Text())
	f.Add(seed.Text() + ".edge.device-1.example.org")
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			return
		}
		if token.Text() != strings.TrimSpace(text) {
			t.Errorf("%q became %q", text, token.Text())
		}
		data, err := token.Bytes()
		again := NewToken(data, token.CAHash)
		again.Namespace, again.Name = token.Namespace, token.Name
		if err != nil || again != token {
			t.Errorf("the bytes of %q became %q, error %v", text, again.Text(), err)
		}
	})
}

func FuzzParseURI(f *testing.F) {
	f.Add("urn:arhat.dev:edgedevice:edge:device-1:uid-1")
	f.Add("urn:arhat.dev:edgedevice:a:b:c%3Ad")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		d, err := parseURI(u)
		if err != nil {
			return
		}
		if err := d.Validate(); err != nil {
			t.Errorf("%q became %v: %v", text, d, err)
		}
		if again, err := parseURI(d.URI()); err != nil || again != d {
			t.Errorf("%q became %v, then %v, error %v", text, d, again, err)
		}
	})
}
