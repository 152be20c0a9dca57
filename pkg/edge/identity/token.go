package identity

import (
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
	tokenSecretBytes = 20 // 32 characters

	// TokenBytes is the size of what an enrolment token's id and secret stand for.
	TokenBytes = tokenIDBytes + tokenSecretBytes
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
	// broker before it has a certificate, and by which the server looks the EdgeDevice up. Both are empty
	// in a token without them.
	Namespace, Name string
}

// NewToken makes a token whose first bytes are its id and the others its secret, for gateways whose CA
// certificate (DER) has the given SHA-256.
func NewToken(data [TokenBytes]byte, caHash [sha256.Size]byte) Token {
	return Token{
		ID:     encodeToken(data[:tokenIDBytes]),
		Secret: encodeToken(data[tokenIDBytes:]),
		CAHash: caHash,
	}
}

// Bytes returns what the id and the secret stand for.
func (t Token) Bytes() ([TokenBytes]byte, error) {
	var data [TokenBytes]byte
	if !decodeToken(data[:tokenIDBytes], t.ID) || !decodeToken(data[tokenIDBytes:], t.Secret) {
		return data, errors.New("the enrolment token is damaged: copy it again in full")
	}
	return data, nil
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

// ParseToken reads the text of a token. Errors do not contain it.
func ParseToken(text string) (Token, error) {
	// A name may have dots, what is before it has none.
	parts := strings.SplitN(strings.TrimSpace(text), ".", 5)
	if len(parts) != 3 && len(parts) != 5 {
		return Token{}, fmt.Errorf("an enrolment token has five parts joined by dots, this has %d: "+
			"copy the whole status.token from \"kubectl edge token\"", len(parts))
	}
	t := Token{ID: parts[0], Secret: parts[1]}
	if _, err := t.Bytes(); err != nil {
		return Token{}, err
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

// decodeToken fills data with what a part stands for, which may be written in one way only.
func decodeToken(data []byte, part string) bool {
	if len(part) != tokenEncoding.EncodedLen(len(data)) {
		return false
	}
	_, err := tokenEncoding.Decode(data, []byte(strings.ToUpper(part)))
	return err == nil && encodeToken(data) == part
}
