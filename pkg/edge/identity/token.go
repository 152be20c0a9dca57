package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
)

const (
	tokenIDBytes     = 5  // 8 characters, for logs
	tokenSecretBytes = 20 // 160 bits
)

var tokenEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// Token is an enrolment token. Its text is <id>.<secret>.<CA hash>, then .<namespace>.<name> of its device,
// all in lower case.
type Token struct {
	// ID names the token in logs. It is not secret.
	ID string
	// Secret is what proves the right to enrol.
	Secret string
	// CAHash is the SHA-256 of the CA certificate (DER) that the gateway must show to the device, so
	// that the device needs to trust nothing else beforehand.
	CAHash [sha256.Size]byte
	// Namespace and Name of the device that the token is for, which must know its topics at an MQTT
	// broker before it has a certificate. They are hints: what counts is what the server has on record.
	// Both are empty in a token without them.
	Namespace, Name string
}

// NewToken makes a token at random for gateways of the CA whose certificate (DER) is given.
func NewToken(caCertificate []byte) Token {
	var b [tokenIDBytes + tokenSecretBytes]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return Token{
		ID:     encodeToken(b[:tokenIDBytes]),
		Secret: encodeToken(b[tokenIDBytes:]),
		CAHash: sha256.Sum256(caCertificate),
	}
}

func encodeToken(b []byte) string { return strings.ToLower(tokenEncoding.EncodeToString(b)) }

// Text returns the token as it is given to the device. It is a secret: do not log it.
func (t Token) Text() string {
	text := t.ID + "." + t.Secret + "." + hex.EncodeToString(t.CAHash[:])
	if t.Name != "" {
		text += "." + t.Namespace + "." + t.Name
	}
	return text
}

// String keeps the secret out of logs.
func (t Token) String() string { return t.ID + ".***" }

// Hash is what the server keeps of a token: the hexadecimal SHA-256 of its id and secret.
func (t Token) Hash() string {
	sum := sha256.Sum256([]byte(t.ID + "." + t.Secret))
	return hex.EncodeToString(sum[:])
}

// ParseToken reads the text of a token. Errors do not contain it.
func ParseToken(text string) (Token, error) {
	// A name may have dots, what is before it has none.
	parts := strings.SplitN(strings.TrimSpace(text), ".", 5)
	if len(parts) != 3 && len(parts) != 5 {
		return Token{}, fmt.Errorf("an enrolment token has five parts joined by dots, this has %d: "+
			"copy the whole status.token from \"kubectl edge token\"", len(parts))
	}
	t := Token{ID: parts[0], Secret: parts[1]}
	if !validTokenPart(t.ID, tokenIDBytes) || !validTokenPart(t.Secret, tokenSecretBytes) {
		return Token{}, errors.New("the enrolment token is damaged: copy it again in full")
	}
	if len(parts[2]) != hex.EncodedLen(len(t.CAHash)) || parts[2] != strings.ToLower(parts[2]) {
		return Token{}, errors.New("the third part of the enrolment token is damaged: copy it again in full")
	}
	if _, err := hex.Decode(t.CAHash[:], []byte(parts[2])); err != nil {
		return Token{}, errors.New("the third part of the enrolment token is damaged: copy it again in full")
	}
	if len(parts) == 5 {
		t.Namespace, t.Name = parts[3], parts[4]
		if len(content.IsDNS1123Label(t.Namespace)) > 0 || len(content.IsDNS1123Subdomain(t.Name)) > 0 {
			return Token{}, errors.New("the end of the enrolment token, which names the device, is damaged: copy it again in full")
		}
	}
	return t, nil
}

func validTokenPart(s string, size int) bool {
	if len(s) != tokenEncoding.EncodedLen(size) || s != strings.ToLower(s) {
		return false
	}
	b, err := tokenEncoding.DecodeString(strings.ToUpper(s))
	return err == nil && len(b) == size && encodeToken(b) == s
}
