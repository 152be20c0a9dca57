package host

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// account is the user that the agent, and so every command on the host, runs as.
type account struct {
	name, home, shell string
}

// currentAccount reads /etc/passwd each time: it may change, and sessions are rare. os/user does not
// tell the shell.
func currentAccount() account {
	a := account{name: "root", home: "/", shell: "/bin/sh"}
	uid := os.Geteuid()
	if uid != 0 {
		a.name = strconv.Itoa(uid)
	}
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return a
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 7 || fields[2] != strconv.Itoa(uid) {
			continue
		}
		a.name = fields[0]
		if fields[5] != "" {
			a.home = fields[5]
		}
		if info, err := os.Stat(fields[6]); err == nil && info.Mode()&0o111 != 0 {
			a.shell = fields[6]
		}
		return a
	}
	return a
}

// environment is what a login would give. The agent's own is not passed on.
func (a account) environment(tty bool) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + a.home, "USER=" + a.name, "LOGNAME=" + a.name, "SHELL=" + a.shell}
	for _, name := range []string{"LANG", "TZ"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	if tty {
		env = append(env, "TERM=xterm")
	}
	return env
}

func (a account) directory() string {
	if info, err := os.Stat(a.home); err == nil && info.IsDir() {
		return a.home
	}
	return "/"
}
