package resolve

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// maxVolumeBytes bounds what all volumes of a pod may hold together: they travel in one message, with
// the pod, which must stay below edgeapi.MaxServerMessage.
const maxVolumeBytes = 6 << 20

// content is a volume under construction.
type content struct {
	files map[string]*edgeapi.File
	// tokens are the paths of service account tokens, which rotate and are left out of the digest.
	tokens map[string]string
}

// volumes collects the content of the configMap, secret and projected volumes.
func (r *Resolver) volumes(ctx context.Context, pod *corev1.Pod, result *Result, missing *Unresolved) ([]*edgeapi.VolumeData, error) {
	result.VolumeDigests, result.VolumeTokens = map[string]string{}, map[string]string{}
	var out []*edgeapi.VolumeData
	var failed error
	size := 0
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		c := &content{files: map[string]*edgeapi.File{}, tokens: map[string]string{}}
		var err error
		switch {
		case v.ConfigMap != nil:
			err = r.configMap(pod.Namespace, c, v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.DefaultMode, v.ConfigMap.Optional)
		case v.Secret != nil:
			err = r.secret(pod.Namespace, c, v.Secret.SecretName, v.Secret.Items, v.Secret.DefaultMode, v.Secret.Optional)
		case v.Projected != nil:
			err = r.projected(ctx, pod, c, v.Projected, result)
		default:
			continue
		}
		if tokenErr := (*tokenError)(nil); errors.As(err, &tokenErr) {
			failed = fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, tokenErr.err)
			continue
		}
		if err != nil {
			if !missing.pending(err) {
				missing.Volumes = append(missing.Volumes, fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", v.Name, err))
			}
			continue
		}
		data := c.data(v.Name)
		with := size
		for _, f := range data.Files {
			with += len(f.Data)
		}
		if with > maxVolumeBytes {
			missing.Volumes = append(missing.Volumes, fmt.Sprintf("MountVolume.SetUp failed for volume %q : with it the configMap, secret and projected volumes hold %d bytes together, a device takes at most %d: use fewer or smaller ones", v.Name, with, maxVolumeBytes))
			continue
		}
		size = with
		out = append(out, data)
		result.VolumeDigests[v.Name] = c.digest()
		if len(c.tokens) > 0 {
			result.VolumeTokens[v.Name] = c.tokenDigest()
		}
	}
	return out, failed
}

func (r *Resolver) configMap(namespace string, c *content, name string, items []corev1.KeyToPath, mode *int32, optional *bool) error {
	object, err := r.Objects.ConfigMap(namespace, name)
	if err != nil {
		if !skip(err, optional) {
			return err
		}
		object = &corev1.ConfigMap{}
	}
	get := func(key string) ([]byte, bool) {
		if v, ok := object.Data[key]; ok {
			return []byte(v), true
		}
		v, ok := object.BinaryData[key]
		return v, ok
	}
	if len(items) == 0 {
		for key, v := range object.Data {
			c.add(key, []byte(v), mode)
		}
		for key, v := range object.BinaryData {
			c.add(key, v, mode)
		}
		return nil
	}
	return c.addItems(items, get, mode, optional, "configmap references non-existent config key: %s")
}

func (r *Resolver) secret(namespace string, c *content, name string, items []corev1.KeyToPath, mode *int32, optional *bool) error {
	object, err := r.Objects.Secret(namespace, name)
	if err != nil {
		if !skip(err, optional) {
			return err
		}
		object = &corev1.Secret{}
	}
	if len(items) == 0 {
		for key, v := range object.Data {
			c.add(key, v, mode)
		}
		return nil
	}
	get := func(key string) ([]byte, bool) { v, ok := object.Data[key]; return v, ok }
	return c.addItems(items, get, mode, optional, "references non-existent secret key: %s")
}

func (r *Resolver) projected(ctx context.Context, pod *corev1.Pod, c *content, volume *corev1.ProjectedVolumeSource, result *Result) error {
	var pending, tokens error
	for i := range volume.Sources {
		source := &volume.Sources[i]
		var err error
		switch {
		case source.ConfigMap != nil:
			err = r.configMap(pod.Namespace, c, source.ConfigMap.Name, source.ConfigMap.Items, volume.DefaultMode, source.ConfigMap.Optional)
		case source.Secret != nil:
			err = r.secret(pod.Namespace, c, source.Secret.Name, source.Secret.Items, volume.DefaultMode, source.Secret.Optional)
		case source.DownwardAPI != nil:
			// The device fills it in.
		case source.ServiceAccountToken != nil:
			err = r.token(ctx, pod, c, source.ServiceAccountToken, volume.DefaultMode, result)
			if failed := (*tokenError)(nil); errors.As(err, &failed) {
				tokens, err = err, nil
			}
		case source.ClusterTrustBundle != nil:
			var anchors []byte
			if anchors, err = r.Bundles.Anchors(source.ClusterTrustBundle); err == nil {
				c.add(source.ClusterTrustBundle.Path, anchors, volume.DefaultMode)
			}
		case source.PodCertificate != nil:
			err = errors.New("podCertificate sources are not available on edge devices")
		}
		if errors.Is(err, ErrPending) {
			pending = err
		} else if err != nil {
			return err
		}
	}
	if pending != nil {
		return pending
	}
	return tokens
}

// tokenError is a failed TokenRequest. It is not the pod's fault and may pass.
type tokenError struct{ err error }

func (e *tokenError) Error() string { return e.err.Error() }

func (r *Resolver) token(ctx context.Context, pod *corev1.Pod, c *content, source *corev1.ServiceAccountTokenProjection, mode *int32, result *Result) error {
	token, refresh, err := r.Tokens.Token(ctx, pod, source)
	if err != nil {
		return &tokenError{err: fmt.Errorf("failed to fetch token: %w", err)}
	}
	result.refreshAt(refresh)
	c.add(source.Path, []byte(token), mode)
	c.tokens[source.Path] = fmt.Sprintf("%s %d", source.Audience, ptr.Deref(source.ExpirationSeconds, 0))
	return nil
}

func (r *Result) refreshAt(t time.Time) {
	if r.Refresh.IsZero() || t.Before(r.Refresh) {
		r.Refresh = t
	}
}

// add puts a file into the volume; a later one of the same path replaces it.
func (c *content) add(path string, data []byte, mode *int32) {
	c.files[path] = &edgeapi.File{Path: path, Data: data, Mode: uint32(ptr.Deref(mode, corev1.ConfigMapVolumeSourceDefaultMode)) & 0o777}
	delete(c.tokens, path)
}

func (c *content) addItems(items []corev1.KeyToPath, get func(string) ([]byte, bool), mode *int32, optional *bool, missing string) error {
	for i := range items {
		data, ok := get(items[i].Key)
		if !ok {
			if ptr.Deref(optional, false) {
				continue
			}
			return fmt.Errorf(missing, items[i].Key)
		}
		if items[i].Mode != nil {
			c.add(items[i].Path, data, items[i].Mode)
		} else {
			c.add(items[i].Path, data, mode)
		}
	}
	return nil
}

func (c *content) data(name string) *edgeapi.VolumeData {
	data := &edgeapi.VolumeData{Name: name}
	for _, path := range slices.Sorted(maps.Keys(c.files)) {
		data.Files = append(data.Files, c.files[path])
	}
	return data
}

// digest covers paths, modes and data, but of a token only what was asked for.
func (c *content) digest() string {
	h := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(c.files)) {
		f := c.files[path]
		data := f.Data
		if asked, ok := c.tokens[path]; ok {
			data = []byte("token " + asked)
		}
		fmt.Fprintf(h, "%q %o %d\n", path, f.Mode, len(data))
		h.Write(data)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func (c *content) tokenDigest() string {
	h := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(c.tokens)) {
		fmt.Fprintf(h, "%q %d\n", path, len(c.files[path].Data))
		h.Write(c.files[path].Data)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
