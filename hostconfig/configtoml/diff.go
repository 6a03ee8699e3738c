package configtoml

import (
	"bytes"
	"fmt"
	"strings"
)

// block is a run of lines: old[oldStart:oldEnd] became new[newStart:newEnd].
type block struct{ oldStart, oldEnd, newStart, newEnd int }

// maxCells bounds the table of the longest common subsequence. Above it the middle counts as replaced.
const maxCells = 4 << 20

// changedBlocks returns what differs between two lists of lines, in order.
func changedBlocks(a, b []string) []block {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	midA, midB := a[head:len(a)-tail], b[head:len(b)-tail]
	if len(midA) == 0 && len(midB) == 0 {
		return nil
	}
	if (len(midA)+1)*(len(midB)+1) > maxCells {
		return []block{{head, len(a) - tail, head, len(b) - tail}}
	}
	var out []block
	i, j := 0, 0
	common := commonLengths(midA, midB)
	width := len(midB) + 1
	for i < len(midA) || j < len(midB) {
		if i < len(midA) && j < len(midB) && midA[i] == midB[j] {
			i, j = i+1, j+1
			continue
		}
		x := block{head + i, head + i, head + j, head + j}
		for (i < len(midA) || j < len(midB)) && (i == len(midA) || j == len(midB) || midA[i] != midB[j]) {
			if j == len(midB) || i < len(midA) && common[(i+1)*width+j] >= common[i*width+j+1] {
				i++
			} else {
				j++
			}
		}
		x.oldEnd, x.newEnd = head+i, head+j
		out = append(out, x)
	}
	return out
}

// commonLengths[i*width+j] is the length of the longest common subsequence of a[i:] and b[j:].
func commonLengths(a, b []string) []int32 {
	width := len(b) + 1
	n := make([]int32, (len(a)+1)*width)
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				n[i*width+j] = n[(i+1)*width+j+1] + 1
			} else {
				n[i*width+j] = max(n[(i+1)*width+j], n[i*width+j+1])
			}
		}
	}
	return n
}

// lines splits data after each newline.
func lines(data []byte) []string {
	var out []string
	for line := range bytes.Lines(data) {
		out = append(out, string(line))
	}
	return out
}

// unified writes a unified diff with three lines around each change. oldName and newName stand in its head.
func unified(oldName, newName string, a, b []string) string {
	const around = 3
	var out strings.Builder
	blocks := changedBlocks(a, b)
	for n := 0; n < len(blocks); {
		last := n
		for last+1 < len(blocks) && blocks[last+1].oldStart-blocks[last].oldEnd <= 2*around {
			last++
		}
		if n == 0 {
			fmt.Fprintf(&out, "--- %s\n+++ %s\n", oldName, newName)
		}
		from, to := max(blocks[n].oldStart-around, 0), min(blocks[last].oldEnd+around, len(a))
		newFrom := blocks[n].newStart - (blocks[n].oldStart - from)
		newTo := blocks[last].newEnd + (to - blocks[last].oldEnd)
		fmt.Fprintf(&out, "@@ -%s +%s @@\n", hunkRange(from, to), hunkRange(newFrom, newTo))
		at := from
		for _, x := range blocks[n : last+1] {
			marked(&out, " ", a[at:x.oldStart])
			marked(&out, "-", a[x.oldStart:x.oldEnd])
			marked(&out, "+", b[x.newStart:x.newEnd])
			at = x.oldEnd
		}
		marked(&out, " ", a[at:to])
		n = last + 1
	}
	return out.String()
}

func hunkRange(from, to int) string {
	if from == to {
		return fmt.Sprintf("%d,0", from)
	}
	return fmt.Sprintf("%d,%d", from+1, to-from)
}

func marked(out *strings.Builder, mark string, list []string) {
	for _, line := range list {
		out.WriteString(mark + strings.TrimSuffix(line, "\n") + "\n")
		if !strings.HasSuffix(line, "\n") {
			out.WriteString("\\ No newline at end of file\n")
		}
	}
}
