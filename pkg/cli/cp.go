package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/utils/exec"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// copyOptions are the flags of cp.
type copyOptions struct {
	podFlags
	follow, noPreserve bool
}

func newCopyCommand(c *client) *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use:   "cp SOURCE DESTINATION [--pod POD [-c CONTAINER]]",
		Short: "Copy files and directories to and from a device",
		Long: `Copy files and directories to and from a device's host, or a container of one of its pods.

One of SOURCE and DESTINATION is DEVICE:PATH, the other one a local path; a local path with a colon begins
with "./" or "/". What is copied into a directory that exists keeps its name; SOURCE/. is what is in SOURCE. There
must be a tar over there, and a test (with -L a readlink). Symbolic links are copied to a device as they are, and left
out on the way from it.`,
		Example: `  # A file from the device, whatever it is a link to
  kubectl edge cp -L device-1:/etc/os-release ./os-release

  # A directory to the device
  kubectl edge cp ./site device-1:/var/www/site

  # From a container of a pod of the device
  kubectl edge cp device-1:/etc/nginx ./nginx --pod web -c nginx`,
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     c.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			device, from, to, err := parsePaths(args)
			if err != nil {
				return err
			}
			host := &remoteFiles{client: c, device: device, copyOptions: o}
			if to != "" {
				return host.copyTo(cmd.Context(), args[0], to)
			}
			// What is half written is removed.
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			context.AfterFunc(ctx, stop) // a second signal ends the process
			if err := host.copyFrom(ctx, from, args[1]); err == nil || ctx.Err() == nil {
				return err
			}
			return errors.New("interrupted")
		},
	}
	cmd.Flags().BoolVarP(&o.follow, "follow-link", "L", false, "Copy what SOURCE leads to, if it is a symbolic link")
	cmd.Flags().BoolVar(&o.noPreserve, "no-preserve", false, "Do not preserve ownership and permissions on the device")
	o.add(cmd)
	return cmd
}

// parsePaths returns the device and the path on it that is copied from, or to.
func parsePaths(args []string) (device, from, to string, err error) {
	if len(args) != 2 {
		return "", "", "", fmt.Errorf("expected SOURCE and DESTINATION, got %d arguments; see 'kubectl edge cp -h'", len(args))
	}
	source, from, isFrom := cutDevice(args[0])
	destination, to, isTo := cutDevice(args[1])
	switch {
	case isFrom == isTo:
		return "", "", "", errors.New("expected one of SOURCE and DESTINATION to be DEVICE:PATH, and the other one a local path")
	case isFrom && from == "" || isTo && to == "":
		return "", "", "", errors.New("the path on the device is empty")
	case args[0] == "" || args[1] == "":
		return "", "", "", errors.New("the local path is empty")
	}
	return source + destination, from, to, nil
}

// cutDevice divides DEVICE:PATH. As with scp, a colon behind a slash is one of a local path, unless it is that of
// TYPE/NAME.
func cutDevice(arg string) (device, name string, ok bool) {
	device, name, ok = strings.Cut(arg, ":")
	if !ok || device == "" {
		return "", "", false
	}
	if strings.Contains(device, "/") {
		var err error
		if device, err = deviceName(device); err != nil {
			return "", "", false
		}
	}
	return device, name, true
}

// completePaths completes names of devices, as the beginning of DEVICE:PATH, and local files.
func (c *client) completePaths(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if len(args) == 1 && strings.Contains(args[0], ":") || strings.ContainsAny(toComplete, "/.~:") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, directive := c.deviceNames(cmd, nil, toComplete)
	if directive == cobra.ShellCompDirectiveError || len(names) == 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	for i := range names {
		names[i] += ":"
	}
	return names, cobra.ShellCompDirectiveNoSpace
}

// remoteFiles are those of a device's host, or of a container on it.
type remoteFiles struct {
	client *client
	device string
	copyOptions
}

// run executes a command over there. It returns when the command has ended, or with ctx.
func (r *remoteFiles) run(ctx context.Context, stdin io.Reader, stdout io.Writer, command ...string) error {
	request, err := r.client.post(r.device, "exec", &v1alpha1.EdgeDeviceExecOptions{
		Stdin: stdin != nil, Stdout: stdout != nil, Stderr: true, Pod: r.pod, Container: r.container, Command: command,
	})
	if err != nil {
		return err
	}
	config, err := r.client.config()
	if err != nil {
		return err
	}
	return execute(ctx, request.URL(), config, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdout, Stderr: r.client.ErrOut})
}

// copyFrom copies from the device. If that fails or is interrupted, files that were there before are as they were.
func (r *remoteFiles) copyFrom(ctx context.Context, remote, local string) error {
	target := remote
	if r.follow {
		var link bytes.Buffer
		if err := r.run(ctx, nil, &link, "readlink", "-f", "--", remote); errors.As(err, new(utilexec.ExitError)) {
			return fmt.Errorf("%s leads to nothing on the device", remote) // readlink itself says nothing
		} else if err != nil {
			return err
		}
		target = strings.TrimSuffix(link.String(), "\n")
	}
	dir, name := splitRemote(target)
	destination, err := findDestination(local, baseOf(remote))
	if err != nil {
		return err
	}
	defer destination.close()
	destination.skipped = func(name, what string) {
		fmt.Fprintf(r.client.ErrOut, "warning: left out %s: %s\n", name, what)
	}

	reader, writer := io.Pipe()
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(ended)
		err := r.run(ctx, nil, writer, "tar", "-cf", "-", "-C", dir, "./"+name)
		_ = writer.CloseWithError(err) // never fails
	}()
	err = destination.extract(reader, name) // or what tar has failed with
	_ = reader.CloseWithError(err)          // never fails
	cancel()
	<-ended
	return err
}

// copyTo copies to the device.
func (r *remoteFiles) copyTo(ctx context.Context, local, remote string) error {
	name := filepath.Base(local) // of what the user has named, wherever it leads to
	if r.follow {
		var err error
		if local, err = filepath.EvalSymlinks(local); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(local); err != nil {
		return err
	}
	switch err := r.run(ctx, nil, nil, "test", "-d", remote); {
	case err == nil && name != "." && name != ".." && name != "/": // of these goes what is in them
		remote = path.Join(remote, name)
	case err == nil:
	case !errors.As(err, new(utilexec.ExitError)):
		return err
	}
	dir, name := splitRemote(remote)
	command := []string{"tar", "-xmf", "-", "-C", dir}
	if r.noPreserve {
		command = []string{"tar", "--no-same-permissions", "--no-same-owner", "-xmf", "-", "-C", dir}
	}

	reader, writer := io.Pipe()
	archived := make(chan error, 1)
	go func() {
		err := archive(writer, local, name, func(name, what string) {
			fmt.Fprintf(r.client.ErrOut, "warning: left out %s: %s\n", name, what)
		})
		_ = writer.CloseWithError(err) // never fails
		archived <- err
	}()
	err := r.run(ctx, reader, nil, command...)
	_ = reader.CloseWithError(errNotTaken) // never fails
	if archiveErr := <-archived; archiveErr != nil && !errors.Is(archiveErr, errNotTaken) {
		return archiveErr // tar over there only knows that something is missing
	}
	return err
}

// errNotTaken is what an archive ends with if tar over there has ended.
var errNotTaken = errors.New("the other end has ended")

// splitRemote divides a path on a device into a directory and a name in it, "." for all of the directory.
func splitRemote(remote string) (dir, name string) {
	remote = path.Clean(remote)
	if name = path.Base(remote); name == ".." || name == "." || name == "/" {
		return remote, "."
	}
	return path.Dir(remote), name
}

// baseOf is the name under which what is copied from a device goes into a directory: as with cp, none if it ends in
// "/.", which is what is in it.
func baseOf(remote string) string {
	if strings.HasSuffix(remote, "/.") {
		return "."
	}
	return path.Base(path.Clean(remote))
}
