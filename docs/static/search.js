// Headings that hold the words as they were typed come first; excerpts do without the source of formulas
document.addEventListener('DOMContentLoaded', () => {
  if (typeof Search === 'undefined') return
  const typed = (new URLSearchParams(location.search).get('q') || '').trim().toLowerCase()
  Scorer.score = result => result[4] + (typed && result[1].toLowerCase().includes(typed) ? 20 : 0)
  const text = Search.htmlToText
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, 'text/html')
    page.querySelectorAll('.math').forEach(m => m.replaceWith('…'))
    return text(page.documentElement.outerHTML, anchor)
  }
})
