"""A page that shows what the codes of a vocabulary stand for, and opens from disk in any browser.

`vocabulary` finds what there is to say of codes and clips, `snippets` cuts pictures and sounds out of media files,
`page` writes the folder: `template.html`, `page.css` and scripts as they stand here, and `data.js` with all that is
said. Nothing of the data becomes part of the HTML; the scripts set it as text.
"""
