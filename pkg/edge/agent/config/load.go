package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/diskfile"
)

// maxFileSize bounds what Load reads; a real file has a few kilobytes.
const maxFileSize = 1 << 20

// Defaults of a Configuration.
const (
	DefaultStateDir         = "/var/lib/arhat"
	DefaultLogDir           = "/var/log/pods"
	DefaultRuntime          = "unix:///run/containerd/containerd.sock"
	DefaultLogMaxSize       = "5Mi"
	DefaultLogMaxFiles      = 3
	DefaultHostLogPattern   = "/var/log/**"
	DefaultMessageNamespace = "/aranya.arhat.dev"
	defaultAgentLogName     = "arhat.log"
	defaultLoggingFormat    = "text"
	defaultLoggingLevel     = "info"
	defaultReservedMemory   = "64Mi"
	defaultReservedCPU      = "0"
	defaultReservedStorage  = "0"
)

// Load reads and parses a file, without defaults and validation: flags may still change it.
func Load(path string) (*Configuration, error) {
	data, err := diskfile.Read(path, maxFileSize)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	return Parse(data, path)
}

// New is a configuration that says nothing yet.
func New() *Configuration {
	return &Configuration{APIVersion: APIVersion, Kind: Kind}
}

// Parse decodes a configuration strictly: a field that does not exist, a field given twice and a
// value of the wrong type are errors that begin with "<name>:<line>".
func Parse(data []byte, name string) (*Configuration, error) {
	var header struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
	}
	if err := yaml.Unmarshal(data, &header); err != nil {
		return nil, explain(name, data, err)
	}
	if header.APIVersion != APIVersion || header.Kind != Kind {
		return nil, fmt.Errorf("%s: is %q of version %q, must begin with \"apiVersion: %s\" and \"kind: %s\"",
			name, header.Kind, header.APIVersion, APIVersion, Kind)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	c := &Configuration{}
	if err := decoder.Decode(c); err != nil {
		return nil, explain(name, data, err)
	}
	if err := checkNumbers(data); err != nil {
		return nil, explain(name, data, err)
	}
	if err := decoder.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: holds more than one YAML document, only one is allowed", name)
	}
	return c, nil
}

// checkNumbers refuses fractions in the place of integers, of which the YAML library would take the integer part.
// Strings, quantities among them, may look like one.
func checkNumbers(data []byte) error {
	document := yaml.Node{}
	if err := yaml.Unmarshal(data, &document); err != nil {
		return err
	}
	fractionsAsText(&document)
	err := document.Decode(&Configuration{})
	var typeError *yaml.TypeError
	if errors.As(err, &typeError) {
		for i, fault := range typeError.Errors {
			typeError.Errors[i] = strings.Replace(fault, "!!str", "!!float", 1)
		}
	}
	return err
}

func fractionsAsText(node *yaml.Node) {
	if f, err := strconv.ParseFloat(node.Value, 64); node.ShortTag() == "!!float" && (err != nil || f != math.Trunc(f)) {
		node.Tag = "!!str"
	}
	for _, n := range node.Content {
		fractionsAsText(n)
	}
}

var (
	unknownField = regexp.MustCompile(`^line (\d+): field (.+) not found in type .*$`)
	typeName     = regexp.MustCompile(` into (\*?config\.\w+|struct \{.*\}|\*?bool|int|int64|string|\[\]string|map\[.*)$`)
	key          = regexp.MustCompile(`^[\s-]*([\w.-]+)\s*:`)
	lineError    = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
)

// explain turns an error of the YAML library about data into one line per fault that names file, line and field.
func explain(name string, data []byte, err error) error {
	var typeError *yaml.TypeError
	faults := []string{err.Error()}
	if errors.As(err, &typeError) {
		faults = typeError.Errors
	}
	var lines []string
	for _, fault := range faults {
		switch {
		case unknownField.MatchString(fault):
			m := unknownField.FindStringSubmatch(fault)
			lines = append(lines, fmt.Sprintf("%s:%s: unknown field %q", name, m[1], m[2]))
		case lineError.MatchString(fault):
			m := lineError.FindStringSubmatch(fault)
			lines = append(lines, fmt.Sprintf("%s:%s: %s%s", name, m[1], keyOf(data, m[1], m[2]), describeType(m[2])))
		default:
			lines = append(lines, fmt.Sprintf("%s: %s", name, strings.TrimPrefix(fault, "yaml: ")))
		}
	}
	return errors.New(strings.Join(lines, "\n"))
}

// keyOf is the key in a line, with a colon, or nothing if there is none or the fault names it.
func keyOf(data []byte, line, fault string) string {
	n, err := strconv.Atoi(line)
	lines := bytes.Split(data, []byte("\n"))
	if err != nil || n < 1 || n > len(lines) {
		return ""
	}
	if m := key.FindSubmatch(lines[n-1]); m != nil && !strings.Contains(fault, strconv.Quote(string(m[1]))) {
		return string(m[1]) + ": "
	}
	return ""
}

// describeType puts YAML's words in place of Go's.
func describeType(fault string) string {
	m := typeName.FindStringSubmatch(fault)
	if m == nil {
		return fault
	}
	want := map[string]string{"bool": "true or false", "*bool": "true or false", "int": "a whole number", "int64": "a whole number", "string": "a string", "[]string": "a list of strings"}[m[1]]
	if want == "" {
		want = "a mapping"
	}
	return strings.TrimSuffix(fault, m[0]) + ", must be " + want
}

// Default fills in every field that is not set.
func (c *Configuration) Default() {
	setDefault(&c.StateDir, DefaultStateDir)
	setDefault(&c.LogDir, DefaultLogDir)
	setDefault(&c.Runtime, DefaultRuntime)
	setDefault(&c.MQTT.MessageNamespace, DefaultMessageNamespace)
	setDefault(&c.MQTT.CleanSession, ptr.To(true))
	setDefault(&c.Reserved.CPU, defaultReservedCPU)
	setDefault(&c.Reserved.Memory, defaultReservedMemory)
	setDefault(&c.Reserved.EphemeralStorage, defaultReservedStorage)
	c.Housekeeping.setDefaults()

	setDefault(&c.Logging.Format, defaultLoggingFormat)
	setDefault(&c.Logging.Level, defaultLoggingLevel)
	setDefault(&c.Logging.File.Path, filepath.Join(c.StateDir, defaultAgentLogName))
	setDefault(&c.Logging.File.MaxSize, DefaultLogMaxSize)
	if c.Logging.File.MaxFiles == 0 {
		c.Logging.File.MaxFiles = DefaultLogMaxFiles
	}

	p := &c.Policy
	setDefault(&p.HostExec, ptr.To(true))
	setDefault(&p.HostAttach, ptr.To(true))
	setDefault(&p.HostLog.Allow, ptr.To(true))
	if p.HostLog.Paths == nil {
		p.HostLog.Paths = []string{DefaultHostLogPattern}
	}
	if p.HostLog.Units == nil {
		p.HostLog.Units = []string{"*"}
	}
	setDefault(&p.HostPortForward.AllowLoopback, ptr.To(true))
	setDefault(&p.PrivilegedPods, ptr.To(false))
	setDefault(&p.HostNetwork, ptr.To(true))
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
