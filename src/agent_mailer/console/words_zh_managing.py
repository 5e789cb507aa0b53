"""The Chinese texts of the pages on which agents are made, changed and deleted."""

from __future__ import annotations

MANAGING: dict[str, str] = {
    "All is well since": "一切正常，自",
    "What it would do is not known here: read it there before you say yes.": (
        "这里不知道它要做什么：请先在那里看清楚再同意。"
    ),
    "Raise a limit for today": "提高今天的上限",
    "Raise it": "提高",
    "Limit": "上限",
    "New value": "新值",
    "Limits are raised in its workdir:": "上限在它的工作目录中提高：",
    "New agent": "新建智能体",
    "Address, before {ending}": "地址（{ending} 之前的部分）",
    "Without one it is the name in lower case.": "留空则用名称的小写形式。",
    "System prompt": "系统提示词",
    "no team": "没有团队",
    "Make the agent": "创建智能体",
    "Its key": "它的密钥",
    ("It is shown this once. In the folder of the agent type this, and paste the key where it is asked for:"): (
        "只显示这一次。请在智能体的文件夹里输入以下命令，并在询问时粘贴密钥："
    ),
    "Settings of {who}": "{who} 的设置",
    "Deleted agents": "已删除的智能体",
    "made": "创建于",
    "its key ends with": "它的密钥结尾是",
    ("It is deleted: it sends and reads no more, and its address is given to nobody else. Its mail is still there."): (
        "它已被删除：不再收发邮件，地址也不会给别人。它的邮件仍在。"
    ),
    "Who it is": "它是谁",
    ("Its folder has a copy of this: write the files below anew, or run init there again."): (
        "它的文件夹里有一份副本：请重新写入下面的文件，或在那里再次运行 init。"
    ),
    "Key": "密钥",
    "New key…": "新密钥…",
    "The key that it was made with ends at once: its watcher is let in again when it has the new one.": (
        "创建时的密钥立即失效：守护进程拿到新密钥后才能再次接入。"
    ),
    "Its other keys, and those of all your agents, go on.": "它的其他密钥以及代表您所有智能体的密钥继续有效。",
    "Make a new key": "生成新密钥",
    ("To change without a gap, make a second key for it, put it into its folder, then delete the first:"): (
        "若要不中断地更换，请先为它另建一个密钥，放入它的文件夹，再删除原来的："
    ),
    "Files for its folder": "它文件夹里的文件",
    "This command writes them:": "这个命令会写入它们：",
    "Download {name}": "下载 {name}",
    "Copy {name}": "复制 {name}",
    "Delete": "删除",
    "Its mail stays, for you and for those it wrote with. Mail to it is still taken, and worked on by nobody.": (
        "它的邮件保留，您和与它通信的都还能看到。寄给它的邮件仍会收下，但不再有人处理。"
    ),
    "Its keys end at once, and its address is given to nobody else.": ("密钥立即失效，地址不会给别人。"),
    "Delete the agent…": "删除智能体…",
    "Delete the agent": "删除智能体",
    "“{who}” is deleted for ever.": "“{who}”将被永久删除。",
    "None is deleted": "没有已删除的",
    "Who is deleted is listed here: the mail stays.": "已删除的列在这里：邮件仍然保留。",
    "Address": "地址",
    "Show only agents that have any of these:": "只显示带有以下任一标签的智能体：",
    "Show them": "显示",
    "Tags:": "标签：",
    "{n} other is not shown": "另有 {n} 个未显示",
    "{n} others are not shown": "另有 {n} 个未显示",
    "Show all": "全部显示",
    "None has these tags": "没有带这些标签的",
    "All others are hidden.": "其他的都被隐藏。",
    "What you wrote was not taken. Here it is, to copy:": "您写的内容未被采用。内容在此，可以复制：",
    "Everything in the trash is deleted for ever.": "回收站中的所有内容将被永久删除。",
    "It has had no turn yet, as far as is known here.": "就此处所知，它还没有过轮次。",
    "Nothing has been said in it yet.": "其中还没有人说话。",
    "None has been made yet.": "还没有生成过。",
    "Its mail is not on this machine: answer it where its mail is.": "它的邮件不在这台机器上：请在其邮箱所在处回答。",
    "Pages": "分页",
    "Before": "上一页",
    "After": "下一页",
    "{from} to {to} of {n}": "第 {from} 至 {to} 条，共 {n} 条",
    "Settings, key and files": "设置、密钥与文件",
    "The agent is deleted. Its mail stays.": "智能体已删除。它的邮件仍在。",
}
