package config

import (
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Validate checks a configuration after Default. Each error names the field and what is wanted.
func (c *Configuration) Validate() error {
	var errs field.ErrorList
	errs = append(errs, c.validateLinks()...)
	errs = append(errs, validateAbsolute(c.StateDir, field.NewPath("stateDir"))...)
	if c.SecretFile != "" {
		errs = append(errs, validateAbsolute(c.SecretFile, field.NewPath("secretFile"))...)
	}
	errs = append(errs, validateAbsolute(c.LogDir, field.NewPath("logDir"))...)
	errs = append(errs, validateRuntime(c.Runtime, field.NewPath("runtime"))...)
	if c.StaticPodPath != "" {
		errs = append(errs, validateAbsolute(c.StaticPodPath, field.NewPath("staticPodPath"))...)
	}
	if c.NodeIP != "" {
		// As the kubelet has it.
		if addr, err := netip.ParseAddr(c.NodeIP); err != nil || !addr.Unmap().IsGlobalUnicast() {
			errs = append(errs, field.Invalid(field.NewPath("nodeIP"), c.NodeIP, "must be an IP address of the device, not of loopback, link-local or multicast"))
		}
	}
	if c.ResolvConf != "" {
		errs = append(errs, validateAbsolute(c.ResolvConf, field.NewPath("resolvConf"))...)
	}
	if len(c.Shell) > 0 {
		errs = append(errs, validateAbsolute(c.Shell[0], field.NewPath("shell").Index(0))...)
	}
	reserved := field.NewPath("reserved")
	errs = append(errs, validateQuantity(c.Reserved.CPU, reserved.Child("cpu"), 0)...)
	errs = append(errs, validateQuantity(c.Reserved.Memory, reserved.Child("memory"), 0)...)
	errs = append(errs, validateQuantity(c.Reserved.EphemeralStorage, reserved.Child("ephemeral-storage"), 0)...)
	errs = append(errs, c.Housekeeping.validate()...)
	errs = append(errs, c.Logging.validate(field.NewPath("logging"))...)
	errs = append(errs, c.Policy.validate(field.NewPath("policy"))...)
	return errs.ToAggregate()
}

func validateAbsolute(value string, p *field.Path) field.ErrorList {
	if !filepath.IsAbs(value) || filepath.Clean(value) != value {
		return field.ErrorList{field.Invalid(p, value, "must be an absolute path without \"..\", doubled or trailing slashes")}
	}
	return nil
}

func validateRuntime(value string, p *field.Path) field.ErrorList {
	if value == RuntimeProcess {
		return nil
	}
	socket, ok := strings.CutPrefix(value, "unix://")
	if !ok || !filepath.IsAbs(socket) {
		return field.ErrorList{field.Invalid(p, value, "must be \"process\" or the address of a CRI socket, for example \""+DefaultRuntime+"\"")}
	}
	return nil
}

func validateQuantity(value string, p *field.Path, least int64) field.ErrorList {
	q, err := resource.ParseQuantity(value)
	if err != nil {
		return field.ErrorList{field.Invalid(p, value, "must be a quantity such as \"100m\" or \"64Mi\"")}
	}
	if q.CmpInt64(least) < 0 {
		return field.ErrorList{field.Invalid(p, value, fmt.Sprintf("must be at least %d", least))}
	}
	return nil
}

func (l *Logging) validate(p *field.Path) (errs field.ErrorList) {
	if l.Format != "text" && l.Format != "json" {
		errs = append(errs, field.NotSupported(p.Child("format"), l.Format, []string{"json", "text"}))
	}
	if _, ok := verbosities[l.Level]; !ok {
		errs = append(errs, field.NotSupported(p.Child("level"), l.Level, []string{"debug", "error", "info", "trace"}))
	}
	if l.File.Disabled {
		return errs
	}
	file := p.Child("file")
	errs = append(errs, validateAbsolute(l.File.Path, file.Child("path"))...)
	errs = append(errs, validateQuantity(l.File.MaxSize, file.Child("maxSize"), 64<<10)...)
	if l.File.MaxFiles < 1 || l.File.MaxFiles > 100 {
		errs = append(errs, field.Invalid(file.Child("maxFiles"), l.File.MaxFiles, "must be from 1 to 100"))
	}
	return errs
}

func (l *Policy) validate(p *field.Path) (errs field.ErrorList) {
	for i, pattern := range l.HostLog.Paths {
		at := p.Child("hostLog", "paths").Index(i)
		prefix := strings.TrimSuffix(pattern, "/**")
		if prefix == "" {
			prefix = "/"
		}
		if _, err := path.Match(pattern, "/"); err != nil || !path.IsAbs(pattern) || path.Clean(prefix) != prefix || strings.Contains(prefix, "**") {
			errs = append(errs, field.Invalid(at, pattern, "must be an absolute path; \"*\", \"?\" and \"[a-z]\" match within an element, \"**\" only as the last one"))
		}
	}
	for i, pattern := range l.HostLog.Units {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			errs = append(errs, field.Invalid(p.Child("hostLog", "units").Index(i), pattern, "must be the name of a unit, or a pattern with \"*\" and \"?\""))
		}
	}
	for i, destination := range l.HostPortForward.AllowedDestinations {
		if _, err := parseDestination(destination); err != nil {
			errs = append(errs, field.Invalid(p.Child("hostPortForward", "allowedDestinations").Index(i), destination, err.Error()))
		}
	}
	for i, prefix := range l.HostPaths {
		errs = append(errs, validateAbsolute(prefix, p.Child("hostPaths").Index(i))...)
	}
	return errs
}

func parsePort(s string) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("the port %q is not a number from 1 to 65535", s)
	}
	return uint16(port), nil
}
