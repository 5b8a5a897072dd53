"""Which sentences of a page are not about pictures? Money, files, settings, credits, small talk.

One list for all hubs, in the words their pages use. A sentence that matches is dropped whole, so
what is listed here must hardly ever be said of a picture.
"""

# ruff: noqa: RUF001  (punctuation of Chinese and Japanese pages)

import re

_NOT_A_SKILL = re.compile(
    r"""
    \b(?:
      # money, attention
    patreon|ko-?fi|boosty|fiverr|paypal|afdian|donat\w*|support(?:ing)?\s+(?:me|my|us)
    | buy\s+(?:me|us)
    | buy\b.{0,20}\b(?:coffee|brew|beer)|caffeinated|motivated|commission\w*|(?:can|to)\s+tip\b
    | tips?\s+(?:are|me)|discord|twitter|instagram|facebook|youtube|telegram|reddit|follow
    | subscribe
    | newsletter|socials?|(?:don't|do\s+not)\s+forget
    | (?:leave|post|share)\s+(?:a|an|your|me|some)\b
    | drop\s+(?:me|us|a\s+(?:comment|like|line|review))\b|likes?\s+(?:and|this|it|if)
    | heart\s+(?:and|this|if)|reviews?|ratings?|(?:five|5)\s+stars|comments?|feedback|suggestions?
    | appreciat\w+|thank(?:s|\s+you)|credits?\b|giv(?:e|ing)\s+back|completely\s+free|for\s+free
    | time\s+consuming|takes\s+time|expensive\s+(?:and|to)|helping\s+out|goes\s+a\s+long\s+way
    # files, programs, settings
    | downloads?|down\s?load|install\w*|unzip|folder|director(?:y|ies)|upload\w*|config|ya?ml|ckpt
    | safetensors?|extensions?|web-?ui|a1111|automatic1111|comfy\w*|invokeai|diffusionbee
    | easy\s?diffusion|early\s+(?:build|version|test)|restart|update[ds]?|changelog
    | bugs?\s?fix\w*|(?:at|than|above|below)\s+[01][.,]\d
    | adetailer|after\s?detailer|codeformer|gfpgan|control\s?net|inpaint\w*|img2img|txt2img
    | embeddings?
    | easynegative|bad-?hands?\w*|textual\s+inversion|hypernetwork|fp16|bf16|vram|vaes?|baked
    | hi-?\.?\s?res\w*
    | cfg|sampler|sampling|euler|dpm\+*|ddim|clip\s*skip|upscal\w*|denois\w*|steps|settings?
    | parameters?
    | negatives|negative\s+(?:prompts?|tags?|label|embedd\w*)|in\s+(?:the\s+)?negative\b
    | (?:in|to|of)\s+(?:your|the|my|a)\s+prompts?|prompts?\s+(?:should|must|like|example|below)
    | keywords?|activat\w+|trigger\w*|tokens?|weight(?:s|ing)?|strength|multiplier|coefficient
    | lora:
    | weighted|(?:v|version|ver)\s*\d|aspect\s+ratios?|\d{3,4}\s?[x×*]\s?\d{3,4}|resolutions?
    | seeds?\s*:|\d+\s?[mg]b
    # where it comes from
    | hugging\s?face|civitai|github|google\s+drive|torrent|licen[cs]e|permission|commercial
    | copyright\w*
    | resell|re-?upload|disclaimer|affiliated|username|account|banned|epochs?|learning\s+rate
    | datasets?
    | data\s?set|batch\s+size|kohya|(?:fine-?\s?)?trained\s+(?:with|for|using|in|from)
    | (?:re)?training
    | base\s+(?:of\s+\d+|models?)|\d+\s+(?:\w+\s+)?(?:images|pictures|photos|pics|screencaps)
    | dim\b|network|rank\s+\d+|merged\s+(?:at|using|with|from)
    | merg(?:e|es|ing)\s+(?:of|with|it|them)
    | multiple\s+merge\w*|spin\s?-?off|built\s+on|extracted\s+from|first\s+model
    | (?:beta|test)\s+version
    | coming\s+soon|work\s+in\s+progress|wip\b|patch\s+notes|version\s+notes|released?
    | (?:alpha|beta)\s?\d
    # talk
    | my\s+(?:other|first|new|page|profile|shop|store|own\s+embeddings)|check\s+out|enjoy
    | have\s+fun
    | hello|hi\s+(?:all|everyone|guys)|welcome|good\s+luck|best\s+of\s+luck|hope|hopefully
    | please|pls
    | feel\s+free|sorry|let\s+me\s+know|questions?|contact|requests?|renamed?|named|go\s+nuts
    | (?:preview|showcase)s?|examples?|samples?|models|number\s+of|contains?\s+faces
    | other\s+(?:loras?|checkpoints?)|mixing|instance\s+(?:word|token)|loras?\s+(?:can|together)
    | can\s+(?:also\s+)?be\s+(?:used|combined|mixed)
    | you(?:'ll)?\s+(?:will\s+)?(?:need|must|have\s+to|should|might|may)
    | (?:low|worst|normal|best)\s+quality|lowres|bad\s+anatomy|extra\s+(?:legs|arms|fingers|limbs)
    | mirror\s+of|deleted|attention|important|note|notes|warning|read|recommended|guidance|usage
    )\b
    | ^\W*(?:hi|hey|hello|try|test(?:ed|ing)?|use|added|put|note|check|see|click|make\s+sure)\b
    | [?:]\s*$ | \d\s?[-~]\s?\d+\W*$ | \(\s*[\w\s]+:\s*[0-2](?:\.\d+)?\s*\)
    | 账号|频道|下载|权重|触发|训练|采样|负面|赞助|关注|点赞|评论
    | 更新|使用方法|安装|强度|推荐
    | 查看|请|系列|修复|参数|提示词|匹配|混用|反咒|关键词|说明|我的|我是|你
    | ダウンロード|トリガー|重み|フォロー|支援|学習|다운로드|후원|트리거|가중치
    | скача|поддерж|триггер|подпис
    """,
    re.I | re.X,
)


def is_boilerplate(sentence: str) -> bool:
    """Tell whether a sentence is about money, files, settings or the reader."""
    return bool(_NOT_A_SKILL.search(sentence))
