// Excerpts of search results without the source of formulas
document.addEventListener('DOMContentLoaded', () => {
  if (typeof Search === 'undefined') return
  const text = Search.htmlToText
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, 'text/html')
    page.querySelectorAll('.math').forEach(m => m.replaceWith('…'))
    return text(page.documentElement.outerHTML, anchor)
  }
})
