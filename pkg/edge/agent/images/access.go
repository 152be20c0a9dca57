package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/distribution/reference"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxCredentials bounds the credentials that are remembered for one image.
const maxCredentials = 100

// Records keep what an Access knows over restarts of the agent.
type Records interface {
	SaveImages([]byte) error
	LoadImages() ([]byte, error)
}

// Access remembers with which credentials images were pulled, so that a pod without them does not get
// an image for no other reason than that it is on the device already. The policy is the kubelet's
// NeverVerifyPreloadedImages: what this agent has not pulled is for every pod. Its methods may be
// called concurrently.
type Access struct {
	store Records

	mu    sync.Mutex
	known accessRecord
}

// accessRecord is the form on the disk.
type accessRecord struct {
	// Pulled says by image, as the runtime identifies it, and by repository who has pulled it.
	Pulled map[string]map[string]grant `json:"pulled"`
	// Pulling are the names of images whose pull has begun. If the agent ends before the pull, it is
	// known nevertheless that the image is not a preloaded one.
	Pulling map[string]int `json:"pulling,omitempty"`
}

// grant is who has access to an image without asking its registry again.
type grant struct {
	Everyone    bool                 `json:"everyone,omitempty"`
	Credentials []credentialOnRecord `json:"credentials,omitempty"`
}

// credentialOnRecord identifies a credential without revealing it.
type credentialOnRecord struct {
	Secret string `json:"secret,omitempty"` // UID
	Hash   string `json:"hash"`
}

// NewAccess reads the records. If that fails, all images count as preloaded, and the error says so.
func NewAccess(store Records) (*Access, error) {
	a := &Access{store: store}
	data, err := store.LoadImages()
	if err == nil && data != nil {
		err = json.Unmarshal(data, &a.known)
	}
	if err != nil {
		a.known = accessRecord{}
		err = fmt.Errorf("with which credentials images were pulled is not known any more, every pod may use them: %w", err)
	}
	if a.known.Pulled == nil {
		a.known.Pulled = map[string]map[string]grant{}
	}
	// These pulls are over, one way or the other.
	for name := range a.known.Pulling {
		a.known.Pulling[name] = 0
	}
	return a, err
}

// begin is called before an image is pulled.
func (a *Access) begin(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, before := a.known.Pulling[name]
	if a.known.Pulling == nil {
		a.known.Pulling = map[string]int{}
	}
	a.known.Pulling[name]++
	if before {
		return nil
	}
	return a.save()
}

// failed is called after a pull without success.
func (a *Access) failed(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ended(name)
}

// pulled is called after a pull. Credential is the one that was accepted, nil if there was none. Present
// are the images on the device; others are forgotten.
func (a *Access) pulled(name, ref string, c *credential, present []*runtimeapi.Image) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if present != nil {
		maps.DeleteFunc(a.known.Pulled, func(id string, _ map[string]grant) bool {
			return id != ref && !slices.ContainsFunc(present, func(i *runtimeapi.Image) bool { return i.Id == id })
		})
	}
	if a.known.Pulled[ref] == nil {
		a.known.Pulled[ref] = map[string]grant{}
	}
	g := a.known.Pulled[ref][repository(name)]
	switch {
	case g.Everyone:
	case c == nil:
		g = grant{Everyone: true}
	default:
		g.Credentials = slices.DeleteFunc(g.Credentials, func(o credentialOnRecord) bool { return o.same(c) })
		g.Credentials = append(g.Credentials, credentialOnRecord{Secret: c.secret, Hash: c.hash()})
		g.Credentials = g.Credentials[max(0, len(g.Credentials)-maxCredentials):]
	}
	a.known.Pulled[ref][repository(name)] = g
	return a.ended(name)
}

// ended saves that one pull less is under way. Called with the lock held.
func (a *Access) ended(name string) error {
	if a.known.Pulling[name]--; a.known.Pulling[name] <= 0 {
		delete(a.known.Pulling, name)
	}
	return a.save()
}

func (a *Access) save() error {
	data, err := json.Marshal(&a.known)
	if err != nil {
		return err
	}
	return a.store.SaveImages(data)
}

// allows tells whether a pod with these credentials may use an image that is on the device without
// asking its registry.
func (a *Access) allows(name, ref string, credentials []credential) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	record, pulled := a.known.Pulled[ref]
	if _, pulling := a.known.Pulling[name]; !pulled && !pulling {
		return true // preloaded
	}
	g := record[repository(name)]
	return g.Everyone || slices.ContainsFunc(g.Credentials, func(o credentialOnRecord) bool {
		return slices.ContainsFunc(credentials, func(c credential) bool { return o.same(&c) })
	})
}

// same tells whether it is the same credential, or a newer one in the same Secret.
func (o credentialOnRecord) same(c *credential) bool {
	return (o.Secret != "" && o.Secret == c.secret) || o.Hash == c.hash()
}

// hash identifies a credential by its content.
func (c *credential) hash() string {
	data, _ := json.Marshal([]string{c.auth.Username, c.auth.Password, c.auth.IdentityToken, c.auth.RegistryToken}) // strings do not fail
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// repository is an image's name without tag and digest.
func repository(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return named.Name()
}
