package resolve

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// digest is the same for the same desired state of a pod, whoever computes it and whenever. The
// volumes have a digest of their own.
func digest(pod *corev1.Pod, credentials []*edgeapi.RegistryCredential) (string, error) {
	h := sha256.New()
	// The encoding of Kubernetes' types is deterministic: maps are sorted.
	data, err := pod.Marshal()
	if err != nil {
		return "", fmt.Errorf("encode pod: %w", err)
	}
	fmt.Fprintf(h, "%d\n", len(data))
	h.Write(data)
	for _, c := range credentials {
		fmt.Fprintf(h, "%q %q %q %q %q\n", c.Registry, c.Username, c.Password, c.IdentityToken, c.RegistryToken)
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// volumesDigest sums up the digests of the volumes; empty without volumes.
func volumesDigest(volumes map[string]string) string {
	if len(volumes) == 0 {
		return ""
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(volumes)) {
		fmt.Fprintf(h, "%q %s\n", name, volumes[name])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
