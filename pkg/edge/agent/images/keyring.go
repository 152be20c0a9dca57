package images

import (
	"fmt"
	"net/url"
	"path"
	"sort"
	"strings"

	"github.com/distribution/reference"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// defaultRegistry is where names without a registry live, as credentials call it.
const defaultRegistry = "index.docker.io"

// credential is one that fits an image.
type credential struct {
	auth   *runtimeapi.AuthConfig
	secret string // UID of the Secret that it comes from
}

// credentialsFor returns the credentials to try for an image, the most specific first. As in a Docker
// configuration, a credential is for a host (each label may be a pattern), with a port or not, and
// for a path below it.
func credentialsFor(image string, credentials []*edgeapi.RegistryCredential) ([]credential, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil, fmt.Errorf("couldn't parse image name %q: %w", image, err)
	}
	host, repository := reference.Domain(named), "/"+reference.Path(named)
	type match struct {
		key string
		credential
	}
	var matches, fallback []match
	for _, c := range credentials {
		keyHost, keyPath := parseRegistry(c.Registry)
		if keyHost == "" {
			continue
		}
		m := match{keyHost + keyPath, credential{secret: c.SecretUid, auth: &runtimeapi.AuthConfig{
			Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
		}}}
		switch {
		case hostMatches(keyHost, host) && strings.HasPrefix(repository, keyPath):
			matches = append(matches, m)
		case keyHost == defaultRegistry && keyPath == "" && host == "docker.io":
			fallback = append(fallback, m)
		}
	}
	if len(matches) == 0 {
		matches = fallback
	}
	sort.SliceStable(matches, func(i, j int) bool { return matches[i].key > matches[j].key })
	found := make([]credential, len(matches))
	for i, m := range matches {
		found[i] = m.credential
	}
	return found, nil
}

// parseRegistry splits a key of "auths" into host and path. The API versions v1 and v2 in a path mean
// the host as a whole.
func parseRegistry(key string) (host, prefix string) {
	if !strings.HasPrefix(key, "https://") && !strings.HasPrefix(key, "http://") {
		key = "https://" + key
	}
	u, err := url.Parse(key)
	if err != nil {
		return "", ""
	}
	prefix = u.Path
	if strings.HasPrefix(prefix, "/v1/") || strings.HasPrefix(prefix, "/v2/") {
		prefix = prefix[len("/v1"):]
	}
	if prefix == "/" {
		prefix = ""
	}
	return u.Host, prefix
}

func hostMatches(pattern, host string) bool {
	patternName, patternPort, _ := strings.Cut(pattern, ":")
	name, port, _ := strings.Cut(host, ":")
	patternLabels, labels := strings.Split(patternName, "."), strings.Split(name, ".")
	if patternPort != port || len(patternLabels) != len(labels) {
		return false
	}
	for i := range labels {
		if ok, err := path.Match(patternLabels[i], labels[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
