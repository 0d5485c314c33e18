package page_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/matrix-org/dendrite/futures/clientapi/page"
	"github.com/matrix-org/dendrite/futures/test/browser"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

type css = chromedp.CSS

// A visitor is somebody who looks at the page.
type visitor struct {
	*testing.T
	*browser.Tab
	server    *rig.Server
	mayRefuse bool // the server answers something with 403, of which the browser speaks on its console
}

// visit opens a tab of the page, and checks in the end that the page has had nothing to complain of.
func visit(t *testing.T, b *browser.Browser, server *rig.Server, tab string) *visitor {
	v := &visitor{T: t, Tab: b.Tab(t), server: server}
	t.Cleanup(func() {
		for _, fault := range v.Faults() {
			if !v.mayRefuse || !strings.Contains(fault, "status of 403") {
				t.Errorf("the browser says: %s", fault)
			}
		}
	})
	v.Do(chromedp.EmulateViewport(1000, 900), chromedp.Navigate(server.URL+page.Path+"#"+tab))
	v.Await(`!document.querySelector("#sign-in").hidden`)
	return v
}

func (v *visitor) signIn(u *rig.User) {
	v.Helper()
	v.types("[name=user]", u.ID)
	v.types("[name=password]", rig.Password+"\r")
	v.Await(`document.querySelector("#sign-in").hidden`)
}

// reads waits until an element has that text in it.
func (v *visitor) reads(selector, text string) {
	v.Helper()
	v.Await(fmt.Sprintf(`document.querySelector(%q)?.innerText.includes(%q)`, selector, text))
}

func (v *visitor) click(selector string) {
	v.Helper()
	v.Do(chromedp.Click(css(selector)))
}

// types fills in a field; \r is the Enter key.
func (v *visitor) types(selector, text string) {
	v.Helper()
	v.Do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`document.querySelector(%q).select()`, selector)), chromedp.SendKeys(css(selector), text))
}

// choose sets a field that is awkward to type into, as a person's choice does.
func (v *visitor) choose(selector, value string) {
	v.Helper()
	v.Await(fmt.Sprintf(`[...document.querySelector(%q).options ?? [{value: %q}]].some((o) => o.value === %q)`, selector, value, value))
	v.Do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`(() => { const e = document.querySelector(%q); e.value = %q;
		e.dispatchEvent(new Event("input", {bubbles: true})); })()`, selector, value)))
}

// hides checks that the document shows none of the secrets.
func (v *visitor) hides(secrets ...string) {
	v.Helper()
	html := browser.Get(v.Tab, chromedp.Evaluate[string](`document.documentElement.outerHTML + location.href + JSON.stringify(history.state)`))
	for _, secret := range secrets {
		if secret == "" {
			v.Error("a secret is empty: nothing is looked for")
		} else if strings.Contains(html, secret) {
			v.Errorf("the document holds the secret %s", secret)
		}
	}
}

// tooWide names the elements that stick out of their card or the page. What may be scrolled is left out.
const tooWide = `[...document.querySelectorAll("main *:not(.scroll *)")].filter((e) => {
	const frame = e.parentElement.closest(".card") ?? document.body;
	return e.getBoundingClientRect().right > frame.getBoundingClientRect().right + 0.5;
}).map((e) => e.tagName + " " + (e.id || e.name || e.className)).join(", ")`

// picture checks that the page as it is now fits a screen of that width, and writes a picture of it if the flag asks for it.
func (v *visitor) picture(name string, width int64, scheme string) {
	v.Helper()
	v.Do(look(scheme), chromedp.EmulateViewport(width, 900), chromedp.Evaluate[chromedp.Void](`scrollTo(0, 0); document.activeElement.blur()`))
	defer v.Do(look("light"), chromedp.EmulateViewport(1000, 900))
	v.Await(`(document.querySelector("#message").hidden = true)`)
	if beyond := browser.Get(v.Tab, chromedp.Evaluate[string](tooWide)); beyond != "" {
		v.Errorf("%s: out of their frame are %s", name, beyond)
	}
	if !*screenshots {
		return
	}
	picture := browser.Get(v.Tab, chromedp.FullScreenshot(100))
	small, err := shrink(picture)
	if err == nil {
		err = os.WriteFile(filepath.Join("..", "..", "docs", "images", name), small, 0o644)
	}
	if err != nil {
		v.Fatal(err)
	}
}

func look(scheme string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	})
}
