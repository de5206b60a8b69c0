package tidemill

import "fmt"

// Levels of a line of log.
const (
	levelDebug = iota
	levelInfo
	levelWarn
	levelError
)

// Debugf logs a line for whoever hunts a fault. Lines are read with `transform logs`; in native tests they go to standard error. The
// broker cuts long ones and bounds how many a call may write.
func Debugf(format string, args ...any) { writeLog(levelDebug, fmt.Sprintf(format, args...)) }

// Infof logs a line worth knowing.
func Infof(format string, args ...any) { writeLog(levelInfo, fmt.Sprintf(format, args...)) }

// Warnf logs a line worth a look.
func Warnf(format string, args ...any) { writeLog(levelWarn, fmt.Sprintf(format, args...)) }

// Errorf logs a line about something wrong. It makes no error: a record is refused by returning one.
func Errorf(format string, args ...any) { writeLog(levelError, fmt.Sprintf(format, args...)) }
