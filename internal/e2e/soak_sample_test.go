package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sample is what the plugin's process uses at one time.
type sample struct {
	at         time.Duration
	reads      int64 // so far
	goroutines int
	files      int
	resident   int64 // bytes
	heap       int64 // likewise
	conns      int   // at the sandbox
}

// sample returns what the plugin's process uses now. If there are several processes, it takes the one that
// wrote the file s.watched last.
func (s *soak) sample() (sample, error) {
	one := sample{conns: s.w.sandbox.Open()}
	if s.load != nil {
		one.at, one.reads = time.Since(s.start), s.load.reads.Load()
	}
	raw, err := os.ReadFile(s.watched)
	if err != nil {
		return one, err
	}
	var pid int
	if _, err := fmt.Sscan(string(raw), &pid, &one.goroutines, &one.heap); err != nil {
		return one, err
	}
	process := fmt.Sprintf("/proc/%d", pid)
	files, err := os.ReadDir(filepath.Join(process, "fd"))
	if err != nil {
		return one, err
	}
	one.files = len(files)
	memory, err := os.ReadFile(filepath.Join(process, "statm"))
	if err != nil {
		return one, err
	}
	var size, pages int64
	_, err = fmt.Sscan(string(memory), &size, &pages)
	one.resident = pages * int64(os.Getpagesize())
	return one, err
}

// quiet waits until the plugin is idle, and returns what the plugin uses then. The plugin is idle if for
// three seconds no connection to Redox is open, and the numbers of goroutines and open files do not fall.
func (s *soak) quiet(t *testing.T) sample {
	t.Helper()
	var last sample
	var err error
	same := 0
	for deadline := time.Now().Add(2 * time.Minute); same < 3; time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			t.Fatalf("the plugin does not come to rest: %+v, %v", last, err)
		}
		s.w.sandbox.CloseIdle()
		var one sample
		if one, err = s.sample(); err != nil {
			continue // perhaps no process has written yet
		}
		same++
		if one.conns > 0 || one.goroutines < last.goroutines || one.files < last.files || last.goroutines == 0 {
			same = 0
		}
		last = one
	}
	return last
}

const rows = 15

// print prints a table: the samples before and after the load, and medians of those during it.
func (s *soak) print(before, after sample) {
	fmt.Println("| time | tokens/s | goroutines | files | resident | heap | connections |")
	fmt.Println("|--:|--:|--:|--:|--:|--:|--:|")
	line := func(when string, perSecond float64, v sample) {
		fmt.Printf("| %s | %.0f | %d | %d | %.1f MiB | %.1f MiB | %d |\n", when, perSecond, v.goroutines, v.files,
			float64(v.resident)/(1<<20), float64(v.heap)/(1<<20), v.conns)
	}
	line("before", 0, before)
	n := min(rows, len(s.samples))
	for i := range n {
		part := s.samples[i*len(s.samples)/n : (i+1)*len(s.samples)/n]
		first, last := part[0], part[len(part)-1]
		perSecond := 0.0
		if took := last.at - first.at; took > 0 {
			perSecond = float64(last.reads-first.reads) / took.Seconds()
		}
		line(last.at.Round(time.Second).String(), perSecond, medians(part))
	}
	line("after", 0, after)
}

func medians(part []sample) sample {
	return sample{
		goroutines: int(median(part, func(v sample) int64 { return int64(v.goroutines) })),
		files:      int(median(part, func(v sample) int64 { return int64(v.files) })),
		resident:   median(part, func(v sample) int64 { return v.resident }),
		heap:       median(part, func(v sample) int64 { return v.heap }),
		conns:      int(median(part, func(v sample) int64 { return int64(v.conns) })),
	}
}

func median(part []sample, of func(sample) int64) int64 {
	var values []int64
	for _, v := range part {
		values = append(values, of(v))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// assertFlat fails if after the load there are over two more goroutines, or over two more open files, than
// before it. It also fails if memory has grown (see grown) between the third and the last sixth of the load:
// in the third sixth it should have reached its size.
func (s *soak) assertFlat(t *testing.T, before, after sample) {
	t.Helper()
	if after.goroutines > before.goroutines+2 {
		raw, err := os.ReadFile(s.watched)
		t.Errorf("%d goroutines are left, and there were %d: %v\n%s", after.goroutines, before.goroutines, err,
			strings.TrimSpace(string(raw)))
	}
	if after.files > before.files+2 {
		t.Errorf("%d files are left open, and there were %d", after.files, before.files)
	}
	n := len(s.samples)
	if n < 12 {
		t.Fatalf("%d samples are too few to judge by", n)
	}
	third, end := medians(s.samples[n/3:n/2]), medians(s.samples[n*5/6:])
	if grown(third.resident, end.resident) || grown(third.heap, end.heap) {
		t.Errorf("the memory grows: resident from %d to %d bytes, heap from %d to %d", third.resident, end.resident,
			third.heap, end.heap)
	}
}

// grown reports whether a figure has grown by more than a third plus 2 MiB.
func grown(from, to int64) bool { return to > from+from/3+2<<20 }
