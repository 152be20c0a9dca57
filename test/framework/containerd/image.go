package containerd

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// File is a file, directory or symbolic link of an image.
type File struct {
	// Path without a leading slash.
	Path string
	// Data of a regular file. Ignored if Link is set or Path ends in a slash (a directory).
	Data []byte
	// Link is the target of a symbolic link.
	Link string
	// Mode are the permission bits, with set-user-ID (0o4000) and its like as in a tar archive.
	Mode int64
}

// Image is a container image of one layer.
type Image struct {
	// Name with registry and tag, for example "test.local/busybox:1".
	Name       string
	Files      []File
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	WorkingDir string
}

// busyboxPaths are the places where the static busybox is looked for.
var busyboxPaths = []string{"/bin/busybox", "/usr/bin/busybox"}

// Busybox returns an image with the machine's static busybox and all its applets. Files may be added,
// and the command and user changed, before it is imported.
func Busybox(name string) (Image, error) {
	var binary []byte
	var path string
	for _, path = range busyboxPaths {
		if data, err := os.ReadFile(path); err == nil {
			binary = data
			break
		}
	}
	if binary == nil {
		return Image{}, fmt.Errorf("no busybox in %v: install the package busybox-static", busyboxPaths)
	}
	out, err := exec.Command(path, "--list").Output()
	if err != nil {
		return Image{}, fmt.Errorf("list the applets of %s: %w", path, err)
	}
	img := Image{Name: name, Cmd: []string{"/bin/sh"}, Env: []string{"PATH=/usr/bin:/bin:/sbin"}}
	img.Files = append(img.Files,
		File{Path: "bin/", Mode: 0o755},
		File{Path: "bin/busybox", Data: binary, Mode: 0o755},
		File{Path: "etc/", Mode: 0o755},
		File{Path: "etc/passwd", Data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"), Mode: 0o644},
		File{Path: "etc/group", Data: []byte("root:x:0:\nnogroup:x:65534:\n"), Mode: 0o644},
		File{Path: "root/", Mode: 0o700},
		File{Path: "tmp/", Mode: 0o1777},
		File{Path: "var/", Mode: 0o755},
	)
	for _, applet := range strings.Fields(string(out)) {
		if applet != "busybox" && !strings.Contains(applet, "/") {
			img.Files = append(img.Files, File{Path: "bin/" + applet, Link: "busybox"})
		}
	}
	return img, nil
}

// Blobs returns the image's configuration and its layer, an uncompressed tar archive.
func (i Image) Blobs() (config, layer []byte, err error) {
	layer, err = i.layer()
	if err != nil {
		return nil, nil, err
	}
	layerSum := sha256.Sum256(layer)
	config, err = json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Entrypoint": i.Entrypoint, "Cmd": i.Cmd, "Env": i.Env, "User": i.User, "WorkingDir": i.WorkingDir,
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(layerSum[:])}},
		"history": []any{map[string]any{"created_by": "test"}},
	})
	return config, layer, err
}

// WriteTo writes the image as a docker-archive, as "ctr images import" reads it.
func (i Image) WriteTo(w io.Writer) (int64, error) {
	config, layer, err := i.Blobs()
	if err != nil {
		return 0, err
	}
	configSum := sha256.Sum256(config)
	configName := hex.EncodeToString(configSum[:]) + ".json"
	manifest, err := json.Marshal([]any{map[string]any{
		"Config": configName, "RepoTags": []string{i.Name}, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return 0, err
	}
	counter := &countingWriter{w: w}
	tw := tar.NewWriter(counter)
	for _, f := range []File{{Path: configName, Data: config}, {Path: "layer.tar", Data: layer}, {Path: "manifest.json", Data: manifest}} {
		if err := writeTarFile(tw, f.Path, f.Data, 0o644); err != nil {
			return counter.n, err
		}
	}
	return counter.n, tw.Close()
}

func (i Image) layer() ([]byte, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, f := range i.Files {
		var err error
		switch {
		case f.Link != "":
			err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: f.Path, Linkname: f.Link, Mode: 0o777})
		case strings.HasSuffix(f.Path, "/"):
			err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: f.Path, Mode: f.Mode})
		default:
			err = writeTarFile(tw, f.Path, f.Data, f.Mode)
		}
		if err != nil {
			return nil, fmt.Errorf("image %s, file %s: %w", i.Name, f.Path, err)
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func writeTarFile(tw *tar.Writer, name string, data []byte, mode int64) error {
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: mode}); err != nil {
		return err
	}
	_, err := tw.Write(data)
	return err
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
