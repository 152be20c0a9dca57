package conformance

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path"
	"runtime"

	"arhat.dev/aranya/test/framework/containerd"
)

// Media types of what a registry serves.
const (
	manifestListType = "application/vnd.docker.distribution.manifest.list.v2+json"
	manifestType     = "application/vnd.docker.distribution.manifest.v2+json"
	configType       = "application/vnd.docker.container.image.v1+json"
	layerType        = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// registryDir is where agnhost's fake-registry-server looks for the images it serves.
const registryDir = "var/registry"

// descriptor refers to a blob or a manifest.
type descriptor struct {
	MediaType string         `json:"mediaType"`
	Size      int            `json:"size"`
	Digest    string         `json:"digest"`
	Platform  map[string]any `json:"platform,omitempty"`
}

// registryFiles are the image pause:testing in the layout in which agnhost serves images.
func registryFiles(programs string) ([]containerd.File, error) {
	image, err := pause(programs, "pause:testing")
	if err != nil {
		return nil, err
	}
	config, layer, err := image.Blobs()
	if err != nil {
		return nil, err
	}
	var compressed bytes.Buffer
	zw := gzip.NewWriter(&compressed)
	if _, err := zw.Write(layer); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	r := registry{dir: path.Join(registryDir, "pause")}
	for _, dir := range []string{"var/registry/", "var/registry/pause/", "var/registry/pause/blobs/", "var/registry/pause/manifests/"} {
		r.files = append(r.files, containerd.File{Path: dir, Mode: 0o755})
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     manifestType,
		"config":        r.add("blobs", configType, config),
		"layers":        []descriptor{r.add("blobs", layerType, compressed.Bytes())},
	})
	if err != nil {
		return nil, err
	}
	entry := r.add("manifests", manifestType, manifest)
	entry.Platform = map[string]any{"architecture": runtime.GOARCH, "os": "linux"}
	list, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     manifestListType,
		"manifests":     []descriptor{entry},
	})
	if err != nil {
		return nil, err
	}
	tag := []byte(r.add("manifests", manifestListType, list).Digest)
	return append(r.files, containerd.File{Path: path.Join(r.dir, "manifests", "testing"), Data: tag, Mode: 0o644}), nil
}

type registry struct {
	dir   string
	files []containerd.File
}

// add files content under its digest.
func (r *registry) add(kind, mediaType string, content []byte) descriptor {
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	file := path.Join(r.dir, kind, "sha256", digest[:2], digest, "data")
	for _, dir := range []string{path.Join(r.dir, kind, "sha256"), path.Dir(path.Dir(file)), path.Dir(file)} {
		r.files = append(r.files, containerd.File{Path: dir + "/", Mode: 0o755})
	}
	r.files = append(r.files, containerd.File{Path: file, Data: content, Mode: 0o644})
	return descriptor{MediaType: mediaType, Size: len(content), Digest: "sha256:" + digest}
}
