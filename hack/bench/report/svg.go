package report

import (
	"fmt"
	"html"
	"strings"
)

// The plot's measures in pixels.
const (
	panelWidth = 290
	barHeight  = 16
	barGap     = 5
	headHeight = 26
	labelWidth = 78
	valueWidth = 74
	margin     = 14
	topHeight  = 64
)

// palette has the bars' colours, which people who do not see red or green can tell apart.
func palette() []string {
	return []string{"#9aa0a6", "#5f6b7a", "#d1495b", "#edae49", "#66a182", "#2e4057"}
}

// SVG draws the seconds to Ready: a row for each link, a panel for each image, a bar for each contestant. Each panel has
// its own scale, from nothing to its slowest contestant; a thin line goes from the fastest round to the slowest.
func SVG(r *Report) string {
	panelHeight := headHeight + len(r.Contestants)*(barHeight+barGap) + margin
	width := 2*margin + len(r.Images)*panelWidth
	height := topHeight + len(r.Links)*(panelHeight+headHeight) + margin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" `+
		`font-family="system-ui, sans-serif" font-size="12">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	text(&b, margin, 22, "", `font-size="16" font-weight="bold"`, "Seconds from the order to Ready, median (shorter is better)")
	x := margin
	for i, c := range r.Contestants {
		fmt.Fprintf(&b, `<rect x="%d" y="34" width="12" height="12" fill="%s"/>`+"\n", x, colour(i))
		text(&b, x+17, 44, "", "", c.Name)
		x += 34 + 8*len(c.Name)
	}
	for row, link := range r.Links {
		y := topHeight + row*(panelHeight+headHeight)
		text(&b, margin, y+16, "", `font-size="14" font-weight="bold"`, "Link "+link.Name)
		for column, image := range r.Images {
			panel(&b, r, link.Name, image, margin+column*panelWidth, y+headHeight)
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func panel(b *strings.Builder, r *Report, link string, image Image, x, y int) {
	slowest := 0.0
	for _, c := range r.Summary.Cells {
		if c.Link == link && c.Image == image.Name {
			slowest = max(slowest, c.Slowest)
		}
	}
	text(b, x, y+14, "", `font-weight="bold"`, fmt.Sprintf("Image %s (%.0f MB)", image.Name, float64(image.Bytes)/1e6))
	if slowest == 0 {
		text(b, x, y+headHeight+12, "", `fill="#80868b"`, "not measured")
		return
	}
	scale := float64(panelWidth-labelWidth-valueWidth) / slowest
	for i, contestant := range r.Contestants {
		c, ok := r.Summary.find(image.Name, link, contestant.Name)
		if !ok {
			continue
		}
		top := y + headHeight + i*(barHeight+barGap)
		text(b, x+labelWidth-6, top+12, "end", `fill="#5f6368"`, short(contestant.Name))
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", x+labelWidth, top,
			c.Seconds*scale, barHeight, colour(i))
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#202124"/>`+"\n",
			float64(x+labelWidth)+c.Fastest*scale, top+barHeight/2, float64(x+labelWidth)+c.Slowest*scale, top+barHeight/2)
		text(b, x+labelWidth+int(c.Slowest*scale)+5, top+12, "", "", fmt.Sprintf("%s%.2f s", atLeast(c), c.Seconds))
	}
}

func text(b *strings.Builder, x, y int, anchor, attributes, s string) {
	if anchor != "" {
		attributes += fmt.Sprintf(` text-anchor="%s"`, anchor)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" %s>%s</text>`+"\n", x, y, strings.TrimSpace(attributes), html.EscapeString(s))
}

func colour(i int) string { return palette()[i%len(palette())] }

// short is a contestant's name without the program.
func short(name string) string {
	_, rest, ok := strings.Cut(name, "-")
	if !ok {
		return name
	}
	return rest
}
