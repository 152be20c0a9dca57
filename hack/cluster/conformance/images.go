package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"arhat.dev/aranya/test/framework/containerd"
)

// maker makes an image out of the programs in a directory.
type maker func(programs, name string) (containerd.Image, error)

// makers know how to make the images that the tests run, by the last part of the repository's name.
// Upstream's images are Alpine or BusyBox with a program or two; here each is busybox-static with the
// same programs, users and entry points, and a few programs of this machine where upstream's have theirs.
var makers = map[string]maker{
	"agnhost":           agnhost,
	"busybox":           busybox,
	"glibc-dns-testing": busybox, // wanted for its "hostname -f"
	"ipc-utils":         busybox,
	"kitten":            webServerOf("kitten.jpg"),
	"nautilus":          webServerOf("nautilus.jpg"),
	"nginx":             webServer,
	"nonewprivs":        nonewprivs,
	"nonroot":           nonroot,
	"pause":             pause,
}

// makeImages makes those of the images named that can be made, and returns the names of the others.
func makeImages(programs string, names []string) (images []containerd.Image, missing []string, err error) {
	for _, name := range names {
		repository, _, _ := strings.Cut(name, ":")
		if strings.HasPrefix(name, invalidRegistry) || strings.HasPrefix(name, privateRegistry) {
			missing = append(missing, name)
			continue
		}
		make, ok := makers[path.Base(repository)]
		if !ok {
			missing = append(missing, name)
			continue
		}
		image, err := make(programs, name)
		if err != nil {
			return nil, nil, err
		}
		images = append(images, image)
	}
	return images, missing, nil
}

// Registries from which tests pull what must not be there already.
const (
	invalidRegistry = "invalid.registry.k8s.io/"
	privateRegistry = "gcr.io/k8s-authenticated-test/"
)

// base is what all images but pause have in common.
func base(name string) (containerd.Image, error) {
	image, err := containerd.Busybox(name)
	image.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return image, err
}

// busybox has a second shell, bash, for those who ask for "sh" and no path: tests give containers variables
// with names like data-1 and have "sh -c env" print them. The shell of Debian's busybox drops such names,
// that of upstream's image passes them on.
func busybox(_, name string) (containerd.Image, error) {
	image, err := base(name)
	if err != nil {
		return image, err
	}
	if err := addHostProgram(&image, "/bin/bash"); err != nil {
		return image, err
	}
	image.Files = append(image.Files, directories("usr/local/bin/sh")...)
	image.Files = append(image.Files, containerd.File{Path: "usr/local/bin/sh", Link: "/bin/bash"})
	return image, nil
}

func agnhost(programs, name string) (containerd.Image, error) {
	image, err := base(name)
	if err != nil {
		return image, err
	}
	if err := addProgram(&image, programs, "agnhost", "agnhost", 0o755); err != nil {
		return image, err
	}
	for _, file := range []string{"localhost.crt", "localhost.key"} {
		if err := addProgram(&image, programs, file, file, 0o644); err != nil {
			return image, err
		}
	}
	for _, program := range []string{"/bin/bash", "/usr/bin/curl", "/usr/bin/printenv"} { // tests call them
		if err := addHostProgram(&image, program); err != nil {
			return image, err
		}
	}
	registry, err := registryFiles(programs)
	if err != nil {
		return image, err
	}
	image.Files = append(image.Files,
		containerd.File{Path: "agnhost-2", Link: "agnhost"},
		containerd.File{Path: "uploads/", Mode: 0o755},
	)
	image.Files = append(image.Files, registry...)
	for i := range image.Files {
		switch f := &image.Files[i]; f.Path {
		case "etc/passwd":
			f.Data = append(f.Data, "user-defined-in-image:x:1000:1000:Linux User,,,:/home/user-defined-in-image:/bin/sh\n"...)
		case "etc/group":
			f.Data = append(f.Data, "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"...)
		}
	}
	image.Entrypoint, image.Cmd = []string{"/agnhost"}, []string{"pause"}
	return image, nil
}

// webServerOf is agnhost that serves a picture and the name of it.
func webServerOf(picture string) maker {
	return func(programs, name string) (containerd.Image, error) {
		image, err := agnhost(programs, name)
		image.Cmd = []string{"test-webserver"}
		image.Files = append(image.Files,
			containerd.File{Path: "data.json", Data: fmt.Appendf(nil, "{\n  \"image\": %q\n}\n", picture), Mode: 0o644},
			containerd.File{Path: picture, Data: []byte("not a picture\n"), Mode: 0o644},
		)
		return image, err
	}
}

func nonewprivs(programs, name string) (containerd.Image, error) {
	image, err := base(name)
	if err != nil {
		return image, err
	}
	image.Cmd = []string{"nnp"}
	return image, addProgram(&image, programs, "nnp", "usr/local/bin/nnp", 0o6755)
}

func nonroot(_, name string) (containerd.Image, error) {
	image, err := base(name)
	image.User = "1234"
	return image, err
}

func pause(programs, name string) (containerd.Image, error) {
	image := containerd.Image{Name: name, Entrypoint: []string{"/pause"}, User: "65535:65535"}
	return image, addProgram(&image, programs, "pause", "pause", 0o755)
}

// webServer stands for nginx: the tests want something that serves HTTP on port 80 and has a shell.
func webServer(_, name string) (containerd.Image, error) {
	image, err := base(name)
	image.Cmd = []string{"httpd", "-f", "-p", "80"}
	return image, err
}

func addProgram(image *containerd.Image, programs, program, at string, mode int64) error {
	data, err := os.ReadFile(filepath.Join(programs, program))
	if err != nil {
		return fmt.Errorf("image %s: %w", image.Name, err)
	}
	image.Files = append(image.Files, directories(at)...)
	image.Files = append(image.Files, containerd.File{Path: at, Data: data, Mode: mode})
	return nil
}

// directories are those that lead to a path, outermost first.
func directories(at string) (dirs []containerd.File) {
	for i, c := range at {
		if c == '/' {
			dirs = append(dirs, containerd.File{Path: at[:i+1], Mode: 0o755})
		}
	}
	return dirs
}

// addHostProgram adds a program of this machine and the libraries that it is linked with.
func addHostProgram(image *containerd.Image, program string) error {
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		return fmt.Errorf("image %s: libraries of %s: %w", image.Name, program, err)
	}
	files := []string{program}
	for _, field := range strings.Fields(string(out)) {
		if strings.HasPrefix(field, "/") {
			files = append(files, field)
		}
	}
	for _, file := range files {
		if err := addProgram(image, "/", file, strings.TrimPrefix(file, "/"), 0o755); err != nil {
			return err
		}
	}
	return nil
}
