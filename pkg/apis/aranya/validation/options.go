package validation

import (
	"path"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"arhat.dev/aranya/pkg/apis/aranya"
)

const (
	// maxPath is the longest path that Linux opens.
	maxPath = 4096
	// maxPorts bounds how many ports one request can forward.
	maxPorts = 64
)

// unitName is the name of a systemd unit, which never begins with "-".
var unitName = regexp.MustCompile(`^[a-zA-Z0-9:_.\\@][a-zA-Z0-9:_.\\@-]{0,254}$`)

// ValidateExecOptions checks the query parameters of edgedevices/exec.
func ValidateExecOptions(o *aranya.EdgeDeviceExecOptions) field.ErrorList {
	errs := validateTarget(o.Pod, o.Container)
	errs = append(errs, validateStdio(o.Stdin, o.Stdout, o.Stderr, o.TTY)...)
	switch {
	case len(o.Command) == 0:
		errs = append(errs, field.Required(field.NewPath("command"), "the command to run and its arguments, one parameter each"))
	case o.Command[0] == "":
		errs = append(errs, field.Required(field.NewPath("command").Index(0), "the program to run"))
	}
	for i, arg := range o.Command {
		if strings.ContainsRune(arg, 0) {
			errs = append(errs, field.Invalid(field.NewPath("command").Index(i), arg, "must not contain NUL"))
		}
	}
	return errs
}

// ValidateAttachOptions checks the query parameters of edgedevices/attach.
func ValidateAttachOptions(o *aranya.EdgeDeviceAttachOptions) field.ErrorList {
	return append(validateTarget(o.Pod, o.Container), validateStdio(o.Stdin, o.Stdout, o.Stderr, o.TTY)...)
}

// ValidateLogOptions checks the query parameters of edgedevices/log.
func ValidateLogOptions(o *aranya.EdgeDeviceLogOptions) field.ErrorList {
	errs := validateTarget(o.Pod, o.Container)
	pathField, unitField := field.NewPath("path"), field.NewPath("unit")
	if o.Path != "" {
		if o.Pod != "" {
			errs = append(errs, field.Forbidden(pathField, "at most one of pod, path and unit: leave out path or pod"))
		}
		errs = append(errs, validateLogPath(o.Path, pathField)...)
		for _, f := range []struct {
			name string
			set  bool
		}{{"sinceSeconds", o.SinceSeconds != nil}, {"sinceTime", o.SinceTime != nil}, {"timestamps", o.Timestamps}} {
			if f.set {
				errs = append(errs, field.Forbidden(field.NewPath(f.name), "a file has no times: leave it out, or name a unit or pod"))
			}
		}
	}
	if o.Unit != "" {
		if o.Pod != "" || o.Path != "" {
			errs = append(errs, field.Forbidden(unitField, "at most one of pod, path and unit: leave out all but one"))
		}
		if !unitName.MatchString(o.Unit) {
			errs = append(errs, field.Invalid(unitField, o.Unit, `must be the name of a systemd unit, for example "ssh.service"`))
		}
	}
	if o.Previous && o.Pod == "" {
		errs = append(errs, field.Forbidden(field.NewPath("previous"), "only a container has a previous instance: name a pod, or leave it out"))
	}
	return append(errs, validateLogRange(o)...)
}

func validateLogRange(o *aranya.EdgeDeviceLogOptions) field.ErrorList {
	var errs field.ErrorList
	if o.SinceSeconds != nil {
		if o.SinceTime != nil {
			errs = append(errs, field.Forbidden(field.NewPath("sinceTime"), "not together with sinceSeconds: leave one out"))
		}
		if *o.SinceSeconds < 1 {
			errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
		}
	}
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must not be negative"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	return errs
}

// validateLogPath demands the one spelling of a path, so that a policy on the device can be about it.
func validateLogPath(p string, fieldPath *field.Path) field.ErrorList {
	switch {
	case len(p) > maxPath:
		return field.ErrorList{field.TooLong(fieldPath, "", maxPath)}
	case strings.ContainsRune(p, 0):
		return field.ErrorList{field.Invalid(fieldPath, p, "must not contain NUL")}
	case !path.IsAbs(p) || path.Clean(p) != p:
		return field.ErrorList{field.Invalid(fieldPath, p, `must be an absolute path without "." , ".." and doubled or final "/"`)}
	}
	return nil
}

// ValidatePortForwardOptions checks the query parameters of edgedevices/portforward.
func ValidatePortForwardOptions(o *aranya.EdgeDevicePortForwardOptions) field.ErrorList {
	errs := validateTarget(o.Pod, "")
	ports := field.NewPath("ports")
	if len(o.Ports) > maxPorts {
		errs = append(errs, field.TooMany(ports, len(o.Ports), maxPorts))
	}
	for i, port := range o.Ports {
		errs = append(errs, invalid(ports.Index(i), port, validation.IsValidPortNum(int(port)))...)
	}
	if o.Host == "" {
		return errs
	}
	if o.Pod != "" {
		errs = append(errs, field.Forbidden(field.NewPath("host"), "not together with pod: leave one out"))
	}
	if !isHost(o.Host) {
		errs = append(errs, field.Invalid(field.NewPath("host"), o.Host, "must be a DNS name or an IP address, without a port"))
	}
	return errs
}

// validateTarget checks the pod, by name or namespace/name, and the container of a request.
func validateTarget(pod, container string) field.ErrorList {
	var errs field.ErrorList
	if pod != "" {
		name := pod
		var msgs []string
		if namespace, rest, ok := strings.Cut(pod, "/"); ok {
			name = rest
			msgs = validation.IsDNS1123Label(namespace)
		}
		if msgs = append(msgs, validation.IsDNS1123Subdomain(name)...); len(msgs) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("pod"), pod, "must be the name of a pod, or namespace/name"))
		}
	}
	if container != "" {
		if pod == "" {
			errs = append(errs, field.Forbidden(field.NewPath("container"), "names a container of a pod: name the pod as well, or leave it out"))
		}
		errs = append(errs, invalid(field.NewPath("container"), container, validation.IsDNS1123Label(container))...)
	}
	return errs
}

func validateStdio(stdin, stdout, stderr, tty bool) field.ErrorList {
	var errs field.ErrorList
	if !stdin && !stdout && !stderr {
		errs = append(errs, field.Required(field.NewPath("stdout"), "ask for at least one of stdin, stdout and stderr"))
	}
	if tty && stderr {
		errs = append(errs, field.Forbidden(field.NewPath("stderr"), "a terminal has one output: leave out stderr or tty"))
	}
	return errs
}
