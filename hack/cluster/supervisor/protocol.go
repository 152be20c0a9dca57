// Package supervisor keeps a group of processes running, as init or systemd does on a machine: it
// starts them, restarts them when they die, writes their output to files, and when it is told to end
// leaves no descendant behind. It is driven through a unix socket. It knows nothing of Kubernetes.
//
// One supervisor holds the programs of the cloud side of a development cluster, and one more stands
// for each device; the latter may live in namespaces of its own (see Isolation).
package supervisor

import (
	"errors"
	"fmt"
	"time"
)

// Service is a process that a supervisor keeps running.
type Service struct {
	// Name of the service within its supervisor.
	Name string `json:"name"`
	// Argv is the program, as an absolute path, and its arguments.
	Argv []string `json:"argv"`
	// Env is the whole environment.
	Env []string `json:"env,omitempty"`
	// Dir is the working directory.
	Dir string `json:"dir,omitempty"`
	// Log is the file that standard output and standard error are appended to.
	Log string `json:"log"`
	// StopTimeout is how long the process may take from SIGTERM to its end before it is killed. The
	// default is 10 seconds.
	StopTimeout time.Duration `json:"stopTimeout,omitempty"`
}

func (s *Service) validate() error {
	switch {
	case s.Name == "":
		return errors.New("the service has no name")
	case len(s.Argv) == 0:
		return fmt.Errorf("service %s: argv is empty", s.Name)
	case s.Log == "":
		return fmt.Errorf("service %s: no log file is named", s.Name)
	}
	return nil
}

// Status is the state of a service.
type Status struct {
	Name string `json:"name"`
	// PID as seen in the supervisor's own pid namespace; 0 while the process is not running.
	PID int `json:"pid"`
	// Restarts counts the starts after the first.
	Restarts int `json:"restarts"`
	// Stopped says that the service was stopped on purpose.
	Stopped bool `json:"stopped"`
	// LastExit tells how the process ended last.
	LastExit string `json:"lastExit,omitempty"`
	// Log is the service's log file.
	Log string `json:"log"`
}

// request is one line from the client; response is the line that answers it.
type request struct {
	Op      string   `json:"op"`
	Name    string   `json:"name,omitempty"`
	Signal  int      `json:"signal,omitempty"`
	Service *Service `json:"service,omitempty"`
}

type response struct {
	Error    string   `json:"error,omitempty"`
	Services []Status `json:"services,omitempty"`
}

const (
	opStart    = "start"
	opStop     = "stop"
	opSignal   = "signal"
	opList     = "list"
	opShutdown = "shutdown"
)
